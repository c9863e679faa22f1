"""Writes ``small.gguf``: run once with gguf 0.19.0 and numpy 2.4.6, as ``python make_gguf.py``."""

from pathlib import Path

import gguf
import numpy as np


def main() -> None:
    """Keys of several types, a vocabulary, and tensors of three types, one of them in blocks."""
    generator = np.random.default_rng(5)
    writer = gguf.GGUFWriter(Path(__file__).with_name("small.gguf"), "llama")
    writer.add_block_count(1)
    writer.add_rope_freq_base(10000.0)
    writer.add_bool("x.flag", True)
    writer.add_token_list(["a", "bc"])
    writer.add_array("x.numbers", [1, 2, 3])
    writer.add_tensor("tok_embd.weight", generator.standard_normal((2, 32)).astype(np.float32))
    blocks = gguf.quants.quantize(generator.standard_normal((1, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("norm", generator.standard_normal(7).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
