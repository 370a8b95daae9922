"""One GGUF file is read whole and right, or refused with a message that says what to do."""

from __future__ import annotations

from pathlib import Path

import by_hand
import gguf
import pytest
import tiny_models
import torch
from gguf import GGUFWriter

from inspector.errors import ModelLoadError, NoRoom
from inspector.model import gguf_file, load
from inspector.model.memory.memory_need import GB, predict

IDS = (1, 40, 80, 120, 160, 200, 240, 30)
_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a Llama parameter."""
    name = name.removesuffix(".weight")
    if name.startswith("model.layers."):
        _, _, block, part = name.split(".", 3)
        return f"blk.{block}.{_PARTS[part]}.weight"
    return f"{_NAMES[name]}.weight"


def write_gguf(path: Path, architecture: str = "llama", left_out: tuple[str, ...] = ()) -> Path:
    """Write the tiny Llama as llama.cpp would: its own names, and the rows of queries and keys interleaved."""
    network, tokenizer = tiny_models.network("llama"), tiny_models.tokenizer()
    config = network.config
    writer = GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_token_list([*vocabulary[:-1], "th"])  # the format needs one merge
    writer.add_token_merges(["t h"])
    writer.add_token_types([3, 3, 3] + [1] * 256)
    writer.add_bos_token_id(tiny_models.BEGIN)
    writer.add_eos_token_id(tiny_models.END)
    writer.add_pad_token_id(tiny_models.PAD)
    writer.add_chat_template(tiny_models.CHAT_TEMPLATE)
    for name, parameter in network.state_dict().items():
        values = parameter.numpy().copy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                shape = values.shape
                values = values.reshape(heads, 2, shape[0] // heads // 2, shape[1]).swapaxes(1, 2).reshape(shape)
        if name not in left_out:
            writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_gives_the_network_and_tokenizer_that_it_was_made_of(whole):
    model, origin = load(whole, device="cpu", dtype="float32"), tiny_models.network("llama")
    # The file holds float32, so nothing is lost: bit for bit.
    assert torch.equal(by_hand.logits(model.network, IDS), by_hand.logits(origin, IDS))
    assert (model.blocks, model.architecture.d_ff, model.context_length) == (3, 48, tiny_models.CONTEXT)
    assert model.tokenizer.chat_template == tiny_models.CHAT_TEMPLATE
    assert model.end_tokens() == {tiny_models.END}
    text = "How do I? Grüße"
    assert by_hand.bytes_of(model, text) == tiny_models.tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert load(whole, device="cpu", dtype="bfloat16").fingerprint == model.fingerprint


def test_a_gguf_is_parsed_once_and_other_readers_parse_their_own_files(whole, monkeypatch):
    parsed, own, reader = [], gguf.GGUFReader._build_fields, gguf.GGUFReader
    monkeypatch.setattr(reader, "_build_fields", lambda self, *given: parsed.append(self) or own(self, *given))
    load(whole, device="cpu", dtype="float32")
    assert len(parsed) == 1 and gguf.GGUFReader is reader
    monkeypatch.chdir(whole.parent)
    load(whole.name, device="cpu", dtype="float32")
    assert len(parsed) == 2, "a path of its folder, too"
    other = reader(str(whole))
    assert len(parsed) == 3 and parsed[-1] is other


def test_a_gguf_for_a_card_needs_room_there_before_it_is_read(whole, monkeypatch):
    """All that reading takes on the card, from the file's own configuration; in CPU memory its weights alone."""
    free = {"cpu": GB, "cuda": predict(tiny_models.network("llama").config, "bfloat16").read}
    monkeypatch.setattr(gguf_file, "free_memory", lambda device: free[device.type])
    network, _ = gguf_file.read_gguf(whole, torch.bfloat16, torch.device("cuda"))
    assert network.device == torch.device("cpu"), "where it is read to"
    free["cuda"] -= 1
    safetensors = r"the same model as safetensors with --dtype nf4\."
    with pytest.raises(NoRoom, match=rf"tiny\.gguf in bfloat16 needs .* GB on cuda, .* free: use {safetensors}"):
        gguf_file.read_gguf(whole, torch.bfloat16, torch.device("cuda"))
    free["cpu"] = 10
    with pytest.raises(NoRoom, match=rf"in float32 needs .* on cpu, .* free: use --dtype bfloat16, or {safetensors}"):
        load(whole, device="cpu", dtype="float32")


def test_memory_that_runs_out_while_a_gguf_is_read_has_no_remedy_that_a_gguf_refuses(whole, monkeypatch):
    def no_memory(*_given, **_named):
        raise MemoryError

    monkeypatch.setattr(gguf_file, "_read", no_memory)
    with pytest.raises(NoRoom, match=r"\(--dtype bfloat16, or the same model as safetensors with --dtype nf4\)"):
        load(whole, device="cpu")


def test_a_gguf_can_be_saved_and_loaded_as_safetensors(whole, tmp_path):
    """That is how the embedded model is made: the copy must not be marked as quantised."""
    model = load(whole, device="cpu", dtype="float32")
    model.network.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path, device="cpu", dtype="float32")
    assert again.fingerprint == model.fingerprint
    assert torch.equal(by_hand.logits(again.network, IDS), by_hand.logits(model.network, IDS))


def test_a_gguf_without_unembedding_is_one_with_tied_embeddings(tmp_path):
    """As the embedded model's; nothing is missing then."""
    model = load(write_gguf(tmp_path / "tied.gguf", left_out=("lm_head.weight",)), device="cpu", dtype="float32")
    assert torch.equal(model.network.lm_head.weight, tiny_models.network("llama").model.embed_tokens.weight)


def test_a_gguf_that_lacks_a_weight_is_refused_and_the_weight_not_made_up(tmp_path):
    path = write_gguf(tmp_path / "holes.gguf", left_out=("model.layers.1.mlp.down_proj.weight",))
    with pytest.raises(ModelLoadError, match=r"lack 1 of the weights.*model\.layers\.1\.mlp\.down_proj"):
        load(path, device="cpu")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 0.99, 0.9999])
def test_a_gguf_cut_short_anywhere_is_refused(whole, tmp_path, share):
    content = whole.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[: max(4, int(share * len(content)))])
    with pytest.raises(ModelLoadError, match=r"cut\.gguf is cut short or damaged.*Download or copy it again"):
        load(cut, device="cpu")


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\x00" * 64, b"\xff" * 64, b"\x03\x00\x00\x00" + b"\xff" * 64, b"\x03\x00\x00\x00" + b"\x01" * 256],
    ids=["nothing", "zeros", "ones", "huge counts", "huge strings"],
)
def test_a_gguf_of_garbage_is_refused(tmp_path, garbage):
    path = tmp_path / "garbage.gguf"
    path.write_bytes(b"GGUF" + garbage)
    with pytest.raises(ModelLoadError, match="cut short or damaged"):
        load(path, device="cpu")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"<html>Not found</html>"])
def test_a_file_that_only_calls_itself_gguf_is_refused(tmp_path, content):
    path = tmp_path / "page.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"page\.gguf is not a GGUF file.*Check the path"):
        load(path, device="cpu")


def test_a_missing_gguf_is_named(tmp_path):
    with pytest.raises(ModelLoadError, match=r"no file .*absent\.GGUF"):
        load(tmp_path / "absent.GGUF", device="cpu")


def test_a_gguf_of_an_unknown_family_is_refused(tmp_path):
    path = write_gguf(tmp_path / "alien.gguf", "alien")
    with pytest.raises(ModelLoadError, match=r"alien\.gguf could not be read.*supported family"):
        load(path, device="cpu")
