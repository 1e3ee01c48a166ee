"""A graph for LangGraph's server: echoes its input, fails or takes time on request."""

import asyncio
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    """Input and output."""

    text: str
    seconds: float
    fail: bool
    done: str


async def work(state: State) -> State:
    """Do what the job says."""
    await asyncio.sleep(state["seconds"])
    if state["fail"]:
        raise ValueError("told to fail")
    return {"done": state["text"]}


builder = StateGraph(State)
builder.add_node("work", work)
builder.add_edge(START, "work")
builder.add_edge("work", END)
graph = builder.compile()
