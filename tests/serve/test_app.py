"""The server as a process of its own, asked over loopback: by OpenAI's client, and by hand."""

import asyncio
import http.client
import json
import re
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
import torch

from llm.model.generate import generate, greedy
from llm.serve.chat import conversation_ids
from llm.tokens.tokenizer import Tokenizer

PATIENCE = 30
ASKED = {"model": "talker", "prompt": "The river", "max_tokens": 24}
MESSAGES = [{"role": "user", "content": "Why?"}]


def _send(address, method, path, body=None, content_type="application/json"):
    """Status and JSON of an answer, whatever it is."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {"Content-Type": content_type} if content_type else {})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None
    finally:
        connection.close()


def _post(address, path, **asked):
    return _send(address, "POST", path, json.dumps(asked))


def _begin(address, **asked):
    """A connection on which completions were asked for, to be read or hung up."""
    body, where = json.dumps(asked).encode(), urlsplit(address)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    connection = socket.create_connection((where.hostname, where.port), PATIENCE)
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return connection


def _wait_until_idle(address):
    """Within the time that the tests have; the texts that it is used for would take much longer."""
    end = time.monotonic() + PATIENCE
    while (load := _send(address, "GET", "/health")[1])["live"] + load["waiting"]:
        assert time.monotonic() < end, load
        time.sleep(0.05)


@pytest.fixture
def tokenizer(small_tokenizer_file):
    return Tokenizer.load(small_tokenizer_file)


def test_the_model_is_listed_by_its_folder(client, address):
    assert [model.id for model in client.models.list()] == ["talker"]
    assert client.models.retrieve("talker").id == "talker"
    health = _send(address, "GET", "/health")[1]
    assert (health["status"], health["model"], health["slots"]) == ("ok", "talker", 8)


def test_a_greedy_completion_is_what_generate_makes(client, talker, tokenizer):
    ids = [tokenizer.end_of_text, *tokenizer.encode(ASKED["prompt"])]
    drawn = list(generate(talker, ids, 24, greedy))
    answer = client.completions.create(**ASKED, temperature=0)
    assert answer.choices[0].text == tokenizer.decode(drawn)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == {
        "prompt_tokens": len(ids),
        "completion_tokens": 24,
        "total_tokens": len(ids) + 24,
    }
    assert client.completions.create(**{**ASKED, "prompt": ids}, temperature=0).choices[0].text == tokenizer.decode(
        drawn
    )


def test_a_greedy_answer_is_that_of_generate(client, talker, tokenizer):
    said = [("system", "Be brief."), ("user", "Why?"), ("assistant", "So."), ("user", "x")]
    drawn = list(generate(talker, conversation_ids(tokenizer, said), 20, greedy))
    messages = [{"role": role, "content": text} for role, text in said]
    messages[-1]["content"] = [{"type": "text", "text": "x"}]
    for limit in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(model="talker", messages=messages, temperature=0, **{limit: 20})
        assert answer.choices[0].message.content == tokenizer.decode(drawn)
        assert answer.choices[0].message.role == "assistant"


def test_a_stream_is_the_whole_answer_in_pieces(client):
    asked = ASKED | {"seed": 5, "n": 2, "logprobs": 2, "echo": True, "prompt": ["The river", "rain"]}
    whole = client.completions.create(**asked)
    texts, tokens, reasons = [""] * 4, [[] for _ in range(4)], [None] * 4
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        for choice in chunk.choices:
            assert reasons[choice.index] is None
            texts[choice.index] += choice.text
            tokens[choice.index] += zip(choice.logprobs.text_offset, choice.logprobs.token_logprobs, strict=True)
            reasons[choice.index] = choice.finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 20
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        assert reasons[choice.index] == choice.finish_reason
        told = list(zip(choice.logprobs.text_offset, choice.logprobs.token_logprobs, strict=True))
        assert tokens[choice.index] == told
    assert [text.startswith("The river") for text in texts] == [True, True, False, False]


def test_a_streamed_answer_is_the_whole_answer_in_pieces(client):
    asked = {"model": "talker", "messages": MESSAGES, "seed": 5, "max_tokens": 24, "logprobs": True, "top_logprobs": 1}
    whole = client.chat.completions.create(**asked).choices[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    assert chunks[0].delta.role == "assistant"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    told = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content]
    assert told == whole.logprobs.content
    assert len(told) == 24


def test_a_seed_draws_the_same_text_and_none_another_each_time(client):
    texts = [client.completions.create(**ASKED, seed=seed).choices[0].text for seed in (1, 1, -2, None, None)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4
    several = client.completions.create(**ASKED, seed=1, n=3).choices
    assert len({choice.text for choice in several}) == 3
    assert several[0].text == texts[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 0.2},
        {"top_p": 0.1},
        {"extra_body": {"top_k": 1}},
        {"extra_body": {"min_p": 0.9}},
        {"frequency_penalty": 2.0},
        {"presence_penalty": -2.0},
    ],
    ids=lambda changed: next(iter(changed.get("extra_body", changed))),
)
def test_every_way_of_drawing_changes_the_text(client, changed):
    asked = ASKED | {"seed": 1, "max_tokens": 60}
    plain = client.completions.create(**asked).choices[0].text
    assert client.completions.create(**asked, **changed).choices[0].text != plain


@torch.no_grad()
def test_logprobs_are_the_models_own(client, talker, tokenizer):
    answer = client.completions.create(**ASKED, seed=2, temperature=1.5, logprobs=3, echo=True).choices[0]
    prompt = tokenizer.encode(ASKED["prompt"])
    told = answer.logprobs
    # What was drawn is told as text and as bytes; the ids are found again by their place among the likeliest.
    reply = client.completions.create(**ASKED, seed=2, temperature=1.5).choices[0].text
    assert answer.text == ASKED["prompt"] + reply
    assert len(told.token_logprobs) == len(prompt) + 24
    logprobs = talker(torch.tensor([[tokenizer.end_of_text, *prompt]]))[0].log_softmax(-1)
    expected = logprobs[torch.arange(len(prompt)), prompt].tolist()
    assert told.token_logprobs[: len(prompt)] == pytest.approx(expected, abs=1e-3)
    values, ids = logprobs[len(prompt)].topk(3)
    likeliest = {tokenizer.decode([token]): value for token, value in zip(ids.tolist(), values.tolist(), strict=True)}
    given = {name: value for name, value in told.top_logprobs[len(prompt)].items() if name in likeliest}
    assert given == pytest.approx({name: value for name, value in likeliest.items() if name in given}, abs=1e-3)
    assert len(told.top_logprobs[len(prompt)]) in (3, 4)
    assert told.text_offset[:2] == [0, len(tokenizer.decode(prompt[:1]))]


@torch.no_grad()
def test_logprobs_of_an_answer_are_the_models_own(client, talker, tokenizer):
    asked = {"model": "talker", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    told = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    ids = conversation_ids(tokenizer, [("user", "Why?")])
    drawn = list(generate(talker, ids, 12, greedy))
    logprobs = talker(torch.tensor([[*ids, *drawn]]))[0, len(ids) - 1 : -1].log_softmax(-1)
    values, likeliest = logprobs.topk(2)
    assert [token.logprob for token in told] == pytest.approx(values[:, 0].tolist(), abs=1e-3)
    assert [token.top_logprobs[1].logprob for token in told] == pytest.approx(values[:, 1].tolist(), abs=1e-3)
    assert [bytes(token.top_logprobs[0].bytes) for token in told] == [
        tokenizer.token_bytes(token) for token in likeliest[:, 0].tolist()
    ]
    assert client.chat.completions.create(**asked).choices[0].logprobs is None


def test_a_text_ends_before_a_stop_string_streamed_or_not(client):
    asked = ASKED | {"seed": 3, "max_tokens": 60}
    text = client.completions.create(**asked).choices[0].text
    stop = text[9:13]
    for given in (stop, ["never to be found", stop]):
        choice = client.completions.create(**asked, stop=given).choices[0]
        assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")
        chunks = list(client.completions.create(**asked, stop=given, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
        assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_context_bounds_texts_and_prompts(client, address):
    choice = client.completions.create(model="talker", prompt=[9] * 1020, max_tokens=100, logprobs=0).choices[0]
    assert (choice.finish_reason, len(choice.logprobs.tokens)) == ("length", 1024 - 1020 + 1)
    status, body = _post(address, "/v1/completions", model="talker", prompt=[9] * 1025)
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "context_length_exceeded", "prompt")
    assert "1024" in body["error"]["message"]
    messages = [{"role": "user", "content": "Why? " * 1000}]
    status, body = _post(address, "/v1/chat/completions", model="talker", messages=messages)
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "context_length_exceeded", "messages")


@pytest.mark.parametrize(
    ("path", "asked", "status", "param", "code"),
    [
        ("/v1/completions", {}, 400, "prompt", "missing_required_parameter"),
        ("/v1/completions", {"prompt": ""} | {"model": "gpt-9"}, 404, "model", "model_not_found"),
        ("/v1/completions", {"prompt": [320]}, 400, "prompt", "invalid_value"),
        ("/v1/completions", {"prompt": [-1]}, 400, "prompt[0]", "integer_below_min_value"),
        ("/v1/completions", {"prompt": [9] * 1025}, 400, "prompt", "context_length_exceeded"),
        ("/v1/completions", {"prompt": "x" * 1_000_000}, 400, "prompt", "context_length_exceeded"),
        ("/v1/completions", {"prompt": "x" * 3_000_000}, 413, None, "request_too_large"),
        ("/v1/chat/completions", {"messages": [{"role": "wizard"}]}, 400, "messages[0].role", "invalid_value"),
        ("/v1/chat/completions", {"messages": MESSAGES, "tools": [{}]}, 400, "tools", "unsupported_parameter"),
        ("/v1/chat/completions", {"messages": MESSAGES, "top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
        ("/v1/chat/completions", {"messages": MESSAGES * 500}, 400, "messages", "context_length_exceeded"),
        ("/v1/nowhere", {}, 404, None, "unknown_url"),
        ("/health", {}, 405, None, "method_not_supported"),
    ],
)
def test_errors_have_openais_shape(address, path, asked, status, param, code):
    given, body = _post(address, path, **({"model": "talker"} | asked))
    assert given == status
    error = body["error"]
    assert error["message"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    described = _send(address, "GET", "/openapi.json")[1]["paths"]
    if path in described and "post" in described[path]:
        assert str(status) in described[path]["post"]["responses"]


def test_openapi_describes_requests_and_resolves(address):
    described = _send(address, "GET", "/openapi.json")[1]
    for path, name in (("/v1/completions", "CompletionRequest"), ("/v1/chat/completions", "ChatRequest")):
        operation = described["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{name}"}
        assert set(operation["responses"]) == {"200", "400", "404", "413", "500", "503"}
    assert set(described["paths"]["/v1/models/{name}"]["get"]["responses"]) == {"200", "404"}
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert names <= set(described["components"]["schemas"])


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_a_body_of_another_content_type_is_refused(address, content_type):
    status, body = _send(address, "POST", "/v1/completions", json.dumps(ASKED), content_type)
    assert (status, body["error"]["code"]) == (400, "unsupported_content_type")
    assert "This API method only accepts 'application/json' requests, but you specified" in body["error"]["message"]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"])
def test_json_may_be_called_by_any_of_its_names(address, content_type):
    assert _send(address, "POST", "/v1/completions", json.dumps(ASKED), content_type)[0] == 200


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/talker", "/v1/models/gpt-9"])
def test_head_is_get_without_a_body(address, path):
    status, body = _send(address, "HEAD", path)
    assert (status, body) == (_send(address, "GET", path)[0], None)


def test_a_disconnect_within_a_request_is_silent(start_server, chat_folder):
    process, address = start_server(chat_folder)
    where = urlsplit(address)
    with socket.create_connection((where.hostname, where.port), PATIENCE) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    _wait_until_idle(address)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE) == ("", "")


def test_a_conversation_with_the_clients_own_objects(client, talker, tokenizer):
    messages, said = [{"role": "developer", "content": "Be brief."}], [("system", "Be brief.")]
    for number, question in enumerate(["Why?", "And then?", "So what? 😀"]):
        messages.append({"role": "user", "content": question})
        said.append(("user", question))
        text = tokenizer.decode(generate(talker, conversation_ids(tokenizer, said), 12, greedy))
        stop = text[6:9]
        asked = {"model": "talker", "messages": messages, "temperature": 0, "max_tokens": 12, "stop": stop}
        if number == 1:
            with client.chat.completions.stream(**asked) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(**asked).choices[0].message
        assert message.content == text[: text.index(stop)]
        messages.append(message if number else message.model_dump())  # the whole class's fields, null
        said.append(("assistant", message.content))


def test_streams_go_on_while_a_prompt_is_tokenized(talker, tokenizer, monkeypatch):
    """The tokenizing of one prompt is held up; a stream comes to its end meanwhile."""
    httpx2 = pytest.importorskip("httpx2")
    from llm.serve.app import make_app, serve_model

    held, let_go = threading.Event(), threading.Event()
    encode = tokenizer.encode

    def encode_slowly(text):
        if text == "slow":
            held.set()
            assert let_go.wait(PATIENCE)
        return encode(text)

    monkeypatch.setattr(tokenizer, "encode", encode_slowly)
    served = serve_model("talker", talker, tokenizer, True, 2)

    async def ask() -> None:
        transport = httpx2.ASGITransport(make_app(served))
        async with httpx2.AsyncClient(transport=transport, base_url="http://x", timeout=PATIENCE) as asking:
            stream = ASKED | {"stream": True, "max_tokens": 900}
            streamed = asyncio.create_task(asking.post("/v1/completions", json=stream))
            while not served.engine.load()["live"]:
                await asyncio.sleep(0.001)
            slow = asyncio.create_task(asking.post("/v1/completions", json=ASKED | {"prompt": "slow"}))
            assert await asyncio.to_thread(held.wait, PATIENCE)
            assert not streamed.done()
            assert (await asking.get("/health")).json()["live"] == 1
            assert (await streamed).text.endswith("data: [DONE]\n\n")
            assert not slow.done()
            let_go.set()
            assert (await slow).status_code == 200

    served.engine.start()
    try:
        asyncio.run(ask())
    finally:
        served.engine.close()


def test_a_text_that_is_too_long_in_any_case_is_not_tokenized(talker, tokenizer, monkeypatch):
    from llm.serve import app

    served = app.serve_model("talker", talker, tokenizer, True, 1)
    longest = max(len(tokenizer.token_bytes(token)) for token in range(6, tokenizer.vocab_size))
    assert served.longest_token == longest
    monkeypatch.setattr(tokenizer, "encode", lambda text: pytest.fail(f"{len(text)} characters were tokenized"))
    text = "é" * (longest * (talker.config.context_length + 1) // 2 + 1)
    for tokenize in (app.prompt_ids, lambda served, text: app.message_ids(served, [("user", text)])):
        with pytest.raises(
            app.RequestError, match=r"maximum context length is 1024 tokens\. However, your .* at least"
        ):
            tokenize(served, text)


def test_two_hundred_clients_at_once_lose_nothing(client, address):
    openai = pytest.importorskip("openai")
    wanted = [client.completions.create(**ASKED, seed=seed).choices[0].text for seed in range(5)]

    async def ask(clients, number):
        if number % 2:
            answer = await clients.completions.create(**ASKED, seed=number % 5)
            return answer.choices[0].text
        stream = await clients.completions.create(**ASKED, seed=number % 5, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as clients:
            return await asyncio.gather(*(ask(clients, number) for number in range(200)))

    assert asyncio.run(ask_all()) == [wanted[number % 5] for number in range(200)]
    _wait_until_idle(address)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_slots(address, stream):
    # More than a million tokens: whoever wrote them all would not be idle in time.
    asked = {"model": "talker", "prompt": ["The river"] * 16, "max_tokens": 1000, "n": 128}
    with _begin(address, **asked, stream=stream) as connection:
        if stream:
            assert connection.recv(100)
        while _send(address, "GET", "/health")[1]["live"] < 8:
            time.sleep(0.01)
    _wait_until_idle(address)


def test_a_base_model_completes_and_ctrl_c_aborts(start_server, exported_folder):
    process, address = start_server(exported_folder, "--slots", "1")
    name = exported_folder.name
    status, body = _post(address, "/v1/chat/completions", model=name, messages=MESSAGES)
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert "chat template" in body["error"]["message"]
    status, body = _post(address, "/v1/completions", model=name, prompt="The", max_tokens=5)
    assert (status, body["object"]) == (200, "text_completion")
    with _begin(address, model=name, prompt=["The"] * 16, max_tokens=40, n=128, stream=True) as connection:
        told = connection.recv(100)
        assert told
        process.send_signal(signal.SIGINT)
        while more := connection.recv(65536):
            told += more
    assert b"the server was stopped" in told
    assert b"[DONE]" not in told
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "", "")
