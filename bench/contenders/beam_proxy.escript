#!/usr/bin/env escript
%% -*- erlang -*-
%%! +A 1
%% A BEAM process for each job: it submits the job, and waits for the callback as a message.
-mode(compile).

main(_) ->
    ets:new(waiting, [named_table, public, {read_concurrency, true}, {write_concurrency, true}]),
    Url = uri_string:parse(os:getenv("JOB_SERVER_URL")),
    Options = [binary, {packet, http_bin}, {active, false}, {reuseaddr, true}, {nodelay, true}, {backlog, 4096}, {ip, {127, 0, 0, 1}}],
    {ok, Listener} = gen_tcp:listen(list_to_integer(os:getenv("PORT")), Options),
    {ok, Port} = inet:port(Listener),
    persistent_term:put(here, iolist_to_binary(io_lib:format("http://127.0.0.1:~b/callback/", [Port]))),
    persistent_term:put(job_server, {maps:get(host, Url), maps:get(port, Url), maps:get(path, Url)}),
    [spawn_link(fun() -> accept(Listener) end) || _ <- lists:seq(1, 16)],
    io:format("listening on http://127.0.0.1:~b~n", [Port]),
    receive never -> ok end.

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Connection = spawn(fun() -> receive yours -> serve(Socket) end end),
    ok = gen_tcp:controlling_process(Socket, Connection),
    Connection ! yours,
    accept(Listener).

%% One request after the other, until the client closes the connection.
serve(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, {http_request, 'POST', {abs_path, Path}, _}} ->
            Body = body(Socket, length_of(Socket, 0)),
            answer(Socket, handle(Path, Body)),
            serve(Socket);
        _ ->
            gen_tcp:close(Socket)
    end.

handle(<<"/queueJob">>, Body) ->
    Connection = self(),
    {_, Monitor} = spawn_monitor(fun() -> Connection ! {result, self(), run_job(Body)} end),
    receive
        {result, _, Result} -> demonitor(Monitor, [flush]), {200, Result};
        {'DOWN', Monitor, _, _, _} -> {500, <<"{}">>}
    end;
handle(<<"/callback/", Token/binary>>, Body) ->
    case ets:lookup(waiting, Token) of
        [{_, Job}] -> Job ! {callback, Body}, {200, <<"{\"status\": \"accepted\"}">>};
        [] -> {404, <<"{}">>}
    end;
handle(_, _) ->
    {404, <<"{}">>}.

%% The life of a job's process.
run_job(<<"{", Members/binary>>) ->
    Token = binary:encode_hex(rand:bytes(32)),
    true = ets:insert_new(waiting, {Token, self()}),
    Here = persistent_term:get(here),
    Job = [<<"{\"wait\": false, \"callback\": \"">>, Here, Token, <<"\"">>, separator(Members), Members],
    submit(Job),
    receive
        {callback, Result} -> ets:delete(waiting, Token), Result
    after 30000 ->
        ets:delete(waiting, Token),
        exit(timeout)
    end.

separator(<<"}">>) -> <<>>;
separator(_) -> <<", ">>.

%% As the protocol asks, no connection to the job server outlives its reply.
submit(Job) ->
    {Host, Port, Path} = persistent_term:get(job_server),
    {ok, Socket} = gen_tcp:connect(Host, Port, [binary, {packet, http_bin}, {active, false}, {nodelay, true}]),
    Head = io_lib:format(
        "POST ~s HTTP/1.1\r\nHost: ~s:~b\r\nContent-Type: application/json\r\nContent-Length: ~b\r\nConnection: close\r\n\r\n",
        [Path, Host, Port, iolist_size(Job)]
    ),
    ok = gen_tcp:send(Socket, [Head, Job]),
    {ok, {http_response, _, 200, _}} = gen_tcp:recv(Socket, 0),
    body(Socket, length_of(Socket, 0)),
    gen_tcp:close(Socket).

%% Read the rest of a head; return the length of what follows.
length_of(Socket, Length) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, {http_header, _, 'Content-Length', _, Value}} -> length_of(Socket, binary_to_integer(Value));
        {ok, {http_header, _, _, _, _}} -> length_of(Socket, Length);
        {ok, http_eoh} -> Length
    end.

body(_, 0) ->
    <<>>;
body(Socket, Length) ->
    ok = inet:setopts(Socket, [{packet, raw}]),
    {ok, Body} = gen_tcp:recv(Socket, Length),
    ok = inet:setopts(Socket, [{packet, http_bin}]),
    Body.

answer(Socket, {Status, Body}) ->
    Head = io_lib:format("HTTP/1.1 ~b ~s\r\nContent-Type: application/json\r\nContent-Length: ~b\r\n\r\n", [Status, reason(Status), byte_size(Body)]),
    gen_tcp:send(Socket, [Head, Body]).

reason(200) -> "OK";
reason(404) -> "Not Found";
reason(_) -> "Internal Server Error".
