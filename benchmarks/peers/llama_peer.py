"""llama.cpp through its C interface: just what a comparison needs.

The library comes with either of two packages: llama-cpp-python, compiled where it is installed and so with all of the
processor's instructions, or xllamacpp, whose wheel is ready-made. llama.cpp's parameters are structures that grow from
version to version; they are filled in by the library itself, and only fields whose place never moved are set here.
"""
import ctypes
import importlib.util
from pathlib import Path

import numpy as np


def library_path():
    for package, pattern in (("llama_cpp", "lib/libllama.so"), ("xllamacpp", "xllamacpp*.so")):
        found = importlib.util.find_spec(package)
        for folder in found.submodule_search_locations if found else []:
            for path in sorted(Path(folder).glob(pattern)):
                return path
    raise SystemExit("no llama.cpp: benchmarks/peers/setup.sh installs it (or llama-cpp-python, which takes a compiler)")


class ModelParams(ctypes.Structure):
    _fields_ = [("rest", ctypes.c_char * 512)]  # more than the library's, which reads its own part


class ContextParams(ctypes.Structure):
    _fields_ = [("n_ctx", ctypes.c_uint32), ("n_batch", ctypes.c_uint32), ("n_ubatch", ctypes.c_uint32), ("rest", ctypes.c_char * 500)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
                ("pos", ctypes.c_void_p), ("n_seq_id", ctypes.c_void_p), ("seq_id", ctypes.c_void_p),
                ("logits", ctypes.POINTER(ctypes.c_int8))]


def make_exact(params):
    """Keys and values as f32, and attention without its fused form, which rounds to f16.

    Both fields are found by what is around them: attention's is the last of four -1 before two zeros, the cache's types
    are two neighbours of value 1 (f16) after two null pointers.
    """
    words = (ctypes.c_int32 * (ctypes.sizeof(params) // 4)).from_buffer(params)
    fused = [i for i in range(3, 32) if list(words[i - 3:i + 3]) == [-1, -1, -1, -1, 0, 0]]
    types = [i for i in range(16, 60) if list(words[i - 4:i + 2]) == [0, 0, 0, 0, 1, 1]]
    if len(fused) != 1 or len(types) != 1:
        raise SystemExit("this version of llama.cpp has its parameters elsewhere; no comparison is made")
    words[fused[0]] = words[types[0]] = words[types[0] + 1] = 0


_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, text, data: None)
PIECE = 512  # tokens of a call


class LlamaCpp:
    def __init__(self, path, context, threads, exact=False):
        """`exact`: nothing is rounded to f16 (make_exact)."""
        self.library = ctypes.CDLL(str(library_path()))
        pointer = ctypes.c_void_p
        for name, result, arguments in (
                ("llama_backend_init", None, []),
                ("llama_log_set", None, [pointer, pointer]),
                ("llama_print_system_info", ctypes.c_char_p, []),
                ("llama_model_default_params", ModelParams, []),
                ("llama_context_default_params", ContextParams, []),
                ("llama_model_load_from_file", pointer, [ctypes.c_char_p, ModelParams]),
                ("llama_init_from_model", pointer, [pointer, ContextParams]),
                ("llama_set_n_threads", None, [pointer, ctypes.c_int32, ctypes.c_int32]),
                ("llama_model_get_vocab", pointer, [pointer]),
                ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
                ("llama_get_memory", pointer, [pointer]),
                ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
                ("llama_memory_seq_rm", ctypes.c_bool, [pointer, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]),
                ("llama_decode", ctypes.c_int32, [pointer, Batch]),
                ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, ctypes.c_int32]),
                ("llama_free", None, [pointer]),
                ("llama_model_free", None, [pointer])):
            function = getattr(self.library, name)
            function.restype, function.argtypes = result, arguments
        self.library.llama_log_set(ctypes.cast(_QUIET, pointer), None)
        self.library.llama_backend_init()
        self.model = self.library.llama_model_load_from_file(str(path).encode(), self.library.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp cannot read it")
        params = self.library.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, PIECE, PIECE
        if exact:
            make_exact(params)
        self.context = self.library.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"{path}: llama.cpp has no memory for a context of {context}")
        self.library.llama_set_n_threads(self.context, threads, threads)
        self.vocabulary = self.library.llama_vocab_n_tokens(self.library.llama_model_get_vocab(self.model))
        self.memory = self.library.llama_get_memory(self.context)

    def instructions(self):
        words = self.library.llama_print_system_info().decode().replace("|", "\n").split("\n")
        return " ".join(word.split("=")[0].replace("CPU :", "").strip() for word in words if word.strip().endswith("= 1"))

    def restart(self):
        self.library.llama_memory_clear(self.memory, False)

    def cut(self, length):
        """Forgets all tokens from `length` on."""
        assert self.library.llama_memory_seq_rm(self.memory, 0, length, -1)

    def feed(self, tokens, every=False):
        """Goes on with tokens. The logits after the last of them, [1, V], or after every one, [T, V]."""
        rows = []
        for begin in range(0, len(tokens), PIECE):
            piece = tokens[begin:begin + PIECE]
            last = begin + len(piece) == len(tokens)
            ids = (ctypes.c_int32 * len(piece))(*piece)
            wanted = (ctypes.c_int8 * len(piece))(*[int(every or (last and i + 1 == len(piece))) for i in range(len(piece))])
            batch = Batch(len(piece), ids, None, None, None, None, wanted)
            status = self.library.llama_decode(self.context, batch)
            if status != 0:
                raise SystemExit(f"llama.cpp: llama_decode of {len(piece)} tokens gave {status}")
            for i in range(len(piece)):
                if wanted[i]:
                    logits = self.library.llama_get_logits_ith(self.context, i)
                    rows.append(np.ctypeslib.as_array(logits, (self.vocabulary,)).copy())
        return np.stack(rows)

    def close(self):
        self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)
