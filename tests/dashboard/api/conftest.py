"""The same operation for programs: a real server on a tiny model, and several ``gradio_client`` clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import pytest
from api_helpers import connect, serve
from dashboard_helpers import model_at_rest, save_listed, tiny_model
from gradio_client import Client

from dashboard.kit.shelf import Shelf
from inspector.model import InspectedModel


@pytest.fixture(autouse=True)
def model() -> Iterator[InspectedModel]:
    """The served model; every test checks that it is left as it was, bit for bit."""
    with model_at_rest() as lent:
        yield lent


@pytest.fixture(scope="package")
def app(example_folder, tmp_path_factory) -> Iterator[gr.Blocks]:
    """The page, with a second model on its list that nobody has chosen yet."""
    deeper = save_listed(tmp_path_factory.mktemp("listed"), "deeper", 5)
    options = {"device": "cpu", "dtype": "float32"}
    yield from serve(example_folder, shelf=Shelf(tiny_model(), ["tiny-llama", deeper], options))


@pytest.fixture(scope="package")
def demo(example_folder) -> Iterator[gr.Blocks]:
    yield from serve(example_folder, read_only=True)


@pytest.fixture(scope="package")
def connected(app) -> Client:
    return connect(app)


@pytest.fixture
def client(connected) -> Client:
    """A new visitor; what a client knows of the endpoints, which takes the time, stays the same."""
    connected.reset_session()
    return connected
