"""The progress bar and its replacement."""

import io

import pytest

from jobclient.progress import Progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return true."""
        return True


def advance(progress: Progress, jobs: int) -> None:
    """Finish some jobs."""
    with progress:
        for _ in range(jobs):
            progress.advance()


def test_without_a_terminal_there_is_one_final_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A log gets the last state of the bar and no control characters."""
    advance(Progress(50), 50)

    out, err = capsys.readouterr()
    assert out == "50 / 50 [==========================================] 100.00 % 0s\n"
    assert err == ""


def test_on_a_terminal_the_bar_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins empty, ends full and stays on the screen."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)

    advance(Progress(4), 4)

    states = terminal.getvalue().split("\r")
    assert any(state.startswith("0 / 4 [ ") for state in states)
    assert states[-1] == "4 / 4 [==========================================] 100.00 % 0s\n"


def test_for_a_program_nothing_goes_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With JSON to print, the bar is drawn on standard error or not at all."""
    advance(Progress(1, quiet=True), 1)
    assert capsys.readouterr() == ("", "")

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    advance(Progress(1, quiet=True), 1)
    assert "1 / 1 [" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_an_interrupted_run_prints_no_final_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An incomplete run does not look finished."""
    progress = Progress(2)
    progress.advance()

    with pytest.raises(KeyboardInterrupt), progress:
        raise KeyboardInterrupt

    assert progress.finished == 1
    assert capsys.readouterr().out == ""
