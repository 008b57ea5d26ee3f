"""Official checkpoints: finding, downloading, reading, converting and loading the authors' published weights.

Three steps:

* `fetch`: a `timm` pretrained configuration → a verified file on this machine;
* `read`: a file → a plain state dict, without running any code that the file may hold. `archives` and `sealed` know the
  formats and their checksums, `pickles` and `makers` the objects in them, `extent` how large they may be;
* `load`: a state dict in the authors' or our layout → a model, strictly; `fitting` says whether and why not.
"""

from visionssm.checkpoints.fetch import (
    DownloadError,
    OfficialCfg,
    download_checkpoint,
    fetch_pretrained,
    local_pretrained_overlay,
)
from visionssm.checkpoints.load import (
    convert_state_dict,
    create_official,
    load_official,
    load_pretrained_file,
    save_converted,
)
from visionssm.checkpoints.read import WRAPPER_KEYS, read_checkpoint, unwrap_state_dict
from visionssm.data.errors import CheckpointError

__all__ = [
    "WRAPPER_KEYS",
    "CheckpointError",
    "DownloadError",
    "OfficialCfg",
    "convert_state_dict",
    "create_official",
    "download_checkpoint",
    "fetch_pretrained",
    "load_official",
    "load_pretrained_file",
    "local_pretrained_overlay",
    "read_checkpoint",
    "save_converted",
    "unwrap_state_dict",
]
