"""open_clip without transformers: the models that need it find it, and other code sees no difference."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clouds.utils.open_clip import LateModule, LateName, _without_transformers

ROOT = Path(__file__).resolve().parents[2]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
    "text_cfg": {
        "hf_model_name": "",
        "hf_tokenizer_name": "",
        "hf_proj_type": "linear",
        "hf_pooler_type": "cls_pooler",
    },
}
TEXT = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


CODE = """
import copy, pickle, sys, threading, time

def load():
    while not any(getattr(finder, "__module__", "") == "clouds.utils.open_clip" for finder in sys.meta_path):
        time.sleep(0)
    from transformers import BertConfig
    found.append(BertConfig().hidden_size)

found = []
thread = threading.Thread(target=load, daemon=True)
thread.start()
from clouds.utils.open_clip import LateName, open_clip
assert type(open_clip.hf_model.AutoConfig) is LateName
thread.join(300)
assert found == [768], "another thread has imported transformers itself meanwhile"

import open_clip as theirs
import torch, transformers
from transformers import BertModel
assert theirs is open_clip
assert type(BertModel) is type
assert open_clip.hf_model.transformers.__version__ == transformers.__version__
open_clip.add_model_config(sys.argv[1])
model = open_clip.create_model("hf_clip", pretrained_hf=False).eval()
assert type(model.text) is open_clip.hf_model.HFTextEncoder
assert type(model.text.transformer) is BertModel
tokens = torch.randint(1, 99, (2, 5))
features = model.encode_text(tokens)
assert features.shape == (2, 16)
for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
    assert torch.equal(copied.encode_text(tokens), features)
"""


@pytest.mark.slow
def test_a_text_tower_of_hugging_face_works_and_other_code_sees_no_difference(tmp_path: Path) -> None:
    """Its tower and its pooling use the stand-ins."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **TEXT}))
    clip = {**CLIP, "text_cfg": {**CLIP["text_cfg"], "hf_model_name": str(tmp_path)}}
    (tmp_path / "hf_clip.json").write_text(json.dumps(clip))
    words = [sys.executable, "-c", CODE, str(tmp_path / "hf_clip.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr


def test_transformers_that_is_imported_already_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.meta_path)
    monkeypatch.setitem(sys.modules, "transformers", sys)
    with _without_transformers():
        assert sys.meta_path == before
    monkeypatch.delitem(sys.modules, "transformers")
    with _without_transformers():
        assert sys.meta_path[1:] == before
    assert sys.meta_path == before


def test_stand_ins_are_what_they_stand_for() -> None:
    module = LateModule("collections")
    name = module.OrderedDict
    assert isinstance(name, LateName)
    assert name(a=1) == {"a": 1}
    assert name.fromkeys("ab") == {"a": None, "b": None}
    assert isinstance(name(), (int, name))
    assert not isinstance({}, name)
    assert module.__all__[0] == "ChainMap"
    with pytest.raises(AttributeError, match="nothing"):
        module.nothing()
