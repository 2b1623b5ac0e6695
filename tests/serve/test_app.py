"""The app as OpenAI's client and plain HTTP requests see it, in this process."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from llm.finetune.shared.chat import conversation_ids
from llm.model.generate import generate, greedy

ASKED = {"model": "talker", "prompt": "The river", "max_tokens": 24}
MESSAGES = [{"role": "user", "content": "Why?"}]


def test_the_model_is_listed_by_its_name(client, web):
    assert [model.id for model in client.models.list()] == ["talker"]
    assert client.models.retrieve("talker").id == "talker"
    assert web.get("/health").json() == {"status": "ok", "model": "talker", "slots": 8, "live": 0, "waiting": 0}
    for path in ("/health", "/v1/models", "/v1/models/talker", "/v1/models/gpt-9"):
        assert (web.head(path).status_code, web.head(path).content) == (web.get(path).status_code, b"")


def test_a_greedy_completion_equals_generate(client, talker, tokenizer):
    ids = [tokenizer.end_of_text, *tokenizer.encode(ASKED["prompt"])]
    text = tokenizer.decode(list(generate(talker, ids, 24, greedy)))
    for prompt in (ASKED["prompt"], ids):
        answer = client.completions.create(**{**ASKED, "prompt": prompt}, temperature=0)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text, "length")
        usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens)
        assert usage == (len(ids), 24, len(ids) + 24)


def _offsets(logprobs):
    return list(zip(logprobs.text_offset, logprobs.token_logprobs, strict=True))


def test_the_chunks_of_a_stream_add_up_to_the_response(client):
    asked = ASKED | {"seed": 5, "n": 2, "logprobs": 2, "echo": True, "prompt": ["The river", "rain"]}
    whole = client.completions.create(**asked)
    *chunks, last = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage) == ([], whole.usage)
    assert len(chunks) > 20
    assert all(chunk.usage is None for chunk in chunks)
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [choice.finish_reason]
        assert [pair for part in parts for pair in _offsets(part.logprobs)] == _offsets(choice.logprobs)
        assert choice.text.startswith("The river") == (choice.index < 2)


def test_the_chunks_of_an_answer_add_up_to_it(client):
    asked = {"model": "talker", "messages": MESSAGES, "seed": 5, "max_tokens": 24, "logprobs": True, "top_logprobs": 1}
    whole = client.chat.completions.create(**asked).choices[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    assert chunks[0].delta.role == "assistant"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    tokens = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content]
    assert tokens == whole.logprobs.content
    assert len(tokens) == 24


def test_a_seed_determines_the_text(client):
    texts = [client.completions.create(**ASKED, seed=seed).choices[0].text for seed in (1, 1, -2, None, None)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4
    several = client.completions.create(**ASKED, seed=1, n=3).choices
    assert len({choice.text for choice in several}) == 3
    assert several[0].text == texts[0]


def test_every_sampling_parameter_changes_the_text(client):
    asked = ASKED | {"seed": 1, "max_tokens": 60}
    changes = [{"temperature": 0.2}, {"top_p": 0.1}, {"frequency_penalty": 2.0}, {"presence_penalty": -2.0}]
    changes += [{"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 0.9}}]
    plain = client.completions.create(**asked).choices[0].text
    for changed in changes:
        assert client.completions.create(**asked, **changed).choices[0].text != plain, changed


@torch.no_grad()
def test_logprobs_are_the_models_own(client, talker, tokenizer):
    answer = client.completions.create(**ASKED, seed=2, temperature=1.5, logprobs=3, echo=True).choices[0]
    reply = client.completions.create(**ASKED, seed=2, temperature=1.5).choices[0].text
    assert answer.text == ASKED["prompt"] + reply
    prompt, found = tokenizer.encode(ASKED["prompt"]), answer.logprobs
    assert len(found.token_logprobs) == len(prompt) + 24
    assert found.text_offset[:2] == [0, len(tokenizer.decode(prompt[:1]))]
    logprobs = talker(torch.tensor([[tokenizer.end_of_text, *prompt]]))[0].log_softmax(-1)
    expected = logprobs[torch.arange(len(prompt)), prompt].tolist()
    assert found.token_logprobs[: len(prompt)] == pytest.approx(expected, abs=1e-3)
    # Of an incomplete character the text is escaped: only the other tokens are compared by their text.
    top, (values, ids) = found.top_logprobs[len(prompt)], logprobs[len(prompt)].topk(3)
    texts = [tokenizer.decode([token]) for token in ids.tolist()]
    expected = {text: value for text, value in zip(texts, values.tolist(), strict=True) if text in top}
    assert {text: top[text] for text in expected} == pytest.approx(expected, abs=1e-3)
    assert len(top) in (3, 4)


@torch.no_grad()
def test_logprobs_of_an_answer_are_the_models_own(client, talker, tokenizer):
    asked = {"model": "talker", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    assert client.chat.completions.create(**asked).choices[0].logprobs is None
    found = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    ids = conversation_ids(tokenizer, [("user", "Why?")])
    text = list(generate(talker, ids, 12, greedy))
    values, best = talker(torch.tensor([[*ids, *text]]))[0, len(ids) - 1 : -1].log_softmax(-1).topk(2)
    assert [token.logprob for token in found] == pytest.approx(values[:, 0].tolist(), abs=1e-3)
    assert [token.top_logprobs[1].logprob for token in found] == pytest.approx(values[:, 1].tolist(), abs=1e-3)
    expected = [tokenizer.token_bytes(token) for token in best[:, 0].tolist()]
    assert [bytes(token.top_logprobs[0].bytes) for token in found] == expected


def test_a_text_ends_before_a_stop_string(client):
    asked = ASKED | {"seed": 3, "max_tokens": 60}
    text = client.completions.create(**asked).choices[0].text
    stop = text[9:13]
    for given in (stop, ["never to be found", stop]):
        choice = client.completions.create(**asked, stop=given).choices[0]
        assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")
        chunks = list(client.completions.create(**asked, stop=given, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
        assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_context_bounds_a_text(client):
    choice = client.completions.create(model="talker", prompt=[9] * 1020, max_tokens=100, logprobs=0).choices[0]
    assert (choice.finish_reason, len(choice.logprobs.tokens)) == ("length", 1024 - 1020 + 1)


@pytest.mark.parametrize(
    ("path", "asked", "status", "param", "code"),
    [
        ("/v1/completions", {}, 400, "prompt", "missing_required_parameter"),
        ("/v1/completions", {"prompt": "", "model": "gpt-9"}, 404, "model", "model_not_found"),
        ("/v1/completions", {"prompt": [320]}, 400, "prompt", "invalid_value"),
        ("/v1/completions", {"prompt": [9] * 1025}, 400, "prompt", "context_length_exceeded"),
        ("/v1/completions", {"prompt": "x" * 1_000_000}, 400, "prompt", "context_length_exceeded"),
        ("/v1/completions", {"prompt": "x" * 3_000_000}, 413, None, "request_too_large"),
        ("/v1/chat/completions", {"messages": [{"role": "wizard"}]}, 400, "messages[0].role", "invalid_value"),
        ("/v1/chat/completions", {"messages": MESSAGES, "top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
        ("/v1/chat/completions", {"messages": MESSAGES * 500}, 400, "messages", "context_length_exceeded"),
        ("/v1/nowhere", {}, 404, None, "unknown_url"),
        ("/health", {}, 405, None, "method_not_supported"),
    ],
)
def test_errors_have_openais_shape(web, path, asked, status, param, code):
    answer = web.post(path, json={"model": "talker"} | asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["message"] and error["type"] == "invalid_request_error"


def test_a_failure_is_a_server_error(web, monkeypatch):
    monkeypatch.setattr("llm.serve.app.parse_request", lambda *_: 1 / 0)
    answer = web.post("/v1/completions", json=ASKED)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")


def test_openapi_describes_requests_and_resolves(web):
    described = web.get("/openapi.json").json()
    for path, name in (("/v1/completions", "CompletionRequest"), ("/v1/chat/completions", "ChatRequest")):
        operation = described["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{name}"}
        assert set(operation["responses"]) == {"200", "400", "404", "413", "500", "503"}
    assert set(described["paths"]["/v1/models/{name}"]["get"]["responses"]) == {"200", "404"}
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert names <= set(described["components"]["schemas"])


JSON = ("application/json; charset=utf-8", "Application/JSON", "application/x+json")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", *JSON])
def test_a_body_has_to_be_declared_as_json(web, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    answer = web.post("/v1/completions", content=json.dumps(ASKED), headers=headers)
    assert (answer.status_code == 200) == (content_type in JSON)
    if content_type not in JSON:
        assert answer.json()["error"]["code"] == "unsupported_content_type"
        assert "only accepts 'application/json' requests" in answer.json()["error"]["message"]


def test_a_conversation_with_the_clients_own_objects(client, talker, tokenizer):
    messages, turns = [{"role": "developer", "content": "Be brief."}], [("system", "Be brief.")]
    for number, question in enumerate(["Why?", "And then?", "So what? 😀"]):
        messages.append({"role": "user", "content": question})
        turns.append(("user", question))
        text = tokenizer.decode(list(generate(talker, conversation_ids(tokenizer, turns), 12, greedy)))
        asked = {"model": "talker", "messages": messages, "temperature": 0, "max_tokens": 12, "stop": text[6:9]}
        if number == 2:
            messages[-1]["content"] = [{"type": "text", "text": question}]
            asked["max_completion_tokens"] = asked.pop("max_tokens")
        if number == 1:
            with client.chat.completions.stream(**asked) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(**asked).choices[0].message
        assert message.content == text[: text.index(text[6:9])]
        messages.append(message if number else message.model_dump())  # the whole class's fields, null
        turns.append(("assistant", message.content))


def test_a_base_model_has_no_chat(talker, tokenizer, monkeypatch):
    """Nor needs it the special tokens of one."""
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from llm.serve.app import make_app
    from llm.serve.exchange import Served

    monkeypatch.setattr(tokenizer, "special", {"<|endoftext|>": tokenizer.end_of_text})
    with TestClient(make_app(Served("base", talker, tokenizer, False, 1))) as web:
        answer = web.post("/v1/chat/completions", json={"model": "base", "messages": MESSAGES})
        assert answer.status_code == 400 and "no chat template" in answer.json()["error"]["message"]
        assert web.post("/v1/completions", json=ASKED | {"model": "base"}).json()["object"] == "text_completion"


def test_a_prompt_is_tokenized_beside_the_event_loop(web, tokenizer, monkeypatch):
    names, encode = [], tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text: names.append(threading.current_thread().name) or encode(text))
    assert web.post("/v1/completions", json=ASKED).status_code == 200
    assert [name.startswith("tokenizing") for name in names] == [True]


def test_many_clients_at_once_get_their_own_texts(client):
    expected = [client.completions.create(**ASKED, seed=seed).choices[0].text for seed in range(5)]

    def ask(number: int) -> str:
        if number % 2:
            return client.completions.create(**ASKED, seed=number % 5).choices[0].text
        stream = client.completions.create(**ASKED, seed=number % 5, stream=True)
        return "".join(chunk.choices[0].text for chunk in stream)

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(ask, range(100))) == [expected[number % 5] for number in range(100)]
