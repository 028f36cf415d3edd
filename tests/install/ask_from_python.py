# SPDX-License-Identifier: Apache-2.0
"""ask_two_texts from Python, by ctypes alone: ask_from_python.py LIBRARY MODEL STORE

An example of calling unfold.h from another language; install_test runs it against the installed library.
"""
import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p, sizeof


class EngineOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("store_path", c_char_p), ("model_path", c_char_p), ("gist_overrides", c_char_p),
                ("backend", c_char_p), ("kv_type", c_char_p), ("read_only", c_int32), ("num_threads", c_int32),
                ("encode_batch_tokens", c_int32), ("max_queued_requests", c_int32), ("unfold_cache_bytes", c_uint64),
                ("block_cache_bytes", c_uint64), ("gist_cache_bytes", c_uint64)]


class Document(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("name", c_char_p), ("text", c_char_p), ("text_bytes", c_size_t),
                ("format", c_int32)]


class Source(ctypes.Structure):
    _fields_ = [("document", c_char_p), ("snippet", c_char_p), ("snippet_bytes", c_size_t), ("share", c_double),
                ("part", c_uint32), ("byte_begin", c_uint32), ("byte_end", c_uint32)]


# int sink(void* context, const char* text, size_t text_bytes); the text has no zero byte at its end.
TextSink = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)


def load(path):
    """The library, with the types of those functions whose results are no int."""
    library = ctypes.CDLL(path)
    library.unfold_code_name.restype = c_char_p
    library.unfold_free.argtypes = [c_void_p]
    library.unfold_close.argtypes = [c_void_p]
    library.unfold_answer_free.argtypes = [c_void_p]
    library.unfold_engine_options_init.argtypes = [POINTER(EngineOptions), c_size_t]
    library.unfold_document_init.argtypes = [POINTER(Document), c_size_t]
    library.unfold_answer_num_sources.argtypes = [c_void_p]
    library.unfold_answer_num_sources.restype = c_size_t
    library.unfold_answer_source.argtypes = [c_void_p, c_size_t]
    library.unfold_answer_source.restype = POINTER(Source)
    library.unfold_open.argtypes = [POINTER(EngineOptions), POINTER(c_void_p), POINTER(c_void_p)]
    library.unfold_add_document.argtypes = [c_void_p, c_char_p, POINTER(Document), c_void_p, c_void_p,
                                            POINTER(c_void_p)]
    library.unfold_ask.argtypes = [c_void_p, c_char_p, c_char_p, c_void_p, TextSink, c_void_p, POINTER(c_void_p),
                                   POINTER(c_void_p)]
    return library


class Engine:
    """Closes the engine at the end of a `with` block; every failed call raises."""

    def __init__(self, library, model, store):
        self.library = library
        self.handle = c_void_p()
        options = EngineOptions()
        library.unfold_engine_options_init(byref(options), sizeof(options))
        options.model_path = model.encode()
        options.store_path = store.encode()
        self.call(library.unfold_open, byref(options), byref(self.handle))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.library.unfold_close(self.handle)

    def call(self, function, *arguments):
        message = c_void_p()
        code = function(*arguments, byref(message))
        if code == 0:
            return
        text = ctypes.string_at(message).decode()
        self.library.unfold_free(message)
        raise RuntimeError(f"{self.library.unfold_code_name(code).decode()}: {text}")

    def add(self, collection, name, text):
        data = text.encode()
        document = Document()
        self.library.unfold_document_init(byref(document), sizeof(document))
        document.name = name.encode()
        document.text = data
        document.text_bytes = len(data)
        self.call(self.library.unfold_add_document, self.handle, collection.encode(), byref(document), None, None)

    def ask(self, collection, question, sink):
        """Gives each piece of text to `sink`, and returns (document, begin, end, share, snippet) of each source."""
        answer = c_void_p()
        on_text = TextSink(lambda _, text, num_bytes: sink(ctypes.string_at(text, num_bytes).decode()))
        self.call(self.library.unfold_ask, self.handle, collection.encode(), question.encode(), None, on_text, None,
                  byref(answer))
        try:
            count = self.library.unfold_answer_num_sources(answer)
            sources = [self.library.unfold_answer_source(answer, i).contents for i in range(count)]
            return [(s.document.decode(), s.byte_begin, s.byte_end, s.share, s.snippet.decode()) for s in sources]
        finally:
            self.library.unfold_answer_free(answer)


def main(library, model, store):
    with Engine(load(library), model, store) as engine:
        engine.add("notes", "lamp.txt", "The lamp of the lighthouse was lit by Anna every evening.")
        engine.add("notes", "bridge.txt", "The bridge over the river was built by Peter in 1911.")
        sources = engine.ask("notes", "who built the bridge over the river",
                             lambda text: print(text, end="", flush=True) or True)
    print()
    for document, begin, end, share, snippet in sources:
        print(f"{document} {begin}-{end} {share:.2f}: {snippet}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RuntimeError as error:
        sys.exit(str(error))
