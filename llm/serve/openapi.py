"""The description of the API, openapi.json: what FastAPI does not read itself, it does not describe."""

import http
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from llm.serve.schema import ChatRequest, CompletionRequest

REFERENCE = "#/components/schemas/{model}"


def describe(app: FastAPI) -> dict[str, Any]:
    """Return openapi.json, with the schemas of requests and errors."""
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    requests: Any = [(CompletionRequest, "validation"), (ChatRequest, "validation")]
    _, content = models_json_schema(requests, ref_template=REFERENCE)
    text, nullable = {"type": "string"}, {"type": ["string", "null"]}
    error = {"message": text, "type": text, "param": nullable, "code": nullable}
    error_shape = {"type": "object", "properties": {"error": {"type": "object", "properties": error}}}
    schema["components"] = {"schemas": {**content["$defs"], "Error": error_shape}}
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's own, which never occurs
    return schema


def json_body(name: str) -> dict[str, Any]:
    """Describe a request body."""
    return {"requestBody": {"required": True, "content": _json(name)}}


def error_responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Describe the responses with an error."""
    return {code: {"description": http.HTTPStatus(code).phrase, "content": _json("Error")} for code in codes}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REFERENCE.format(model=name)}}}
