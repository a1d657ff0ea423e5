#!/usr/bin/env python3
"""Runs the table of misuses that tests/misuse.rs makes of the header, by ctypes.

    run.py LIBRARY CASES FUNCTIONS [ANOTHER COPY OF THE LIBRARY]

Wants model.gguf in the current folder, as run.c does, which this follows step by step. FUNCTIONS has
a line for each function: its name, the type of its result, and those of its parameters."""

import ctypes
import os
import sys
import threading
from ctypes import CFUNCTYPE, byref, c_bool, c_char_p, c_int32, c_int64, c_size_t, c_uint32
from ctypes import c_uint64, c_void_p

MODEL, SESSION, SAMPLER, DECODER = KINDS = range(4)
LIVE, STALE, REUSED, ORPHAN, POISONED, FRESH, FOREIGN, EMPTY = range(8)
PLAIN, THREAD, PROGRESS, LOG, FORKED, HELD, SHARED, FULL, PACKING = range(9)
NAMES = ["model", "session", "sampler", "decoder"]
OK, BUFFER_TOO_SMALL = 0, -3
PROMPT = (c_int32 * 8)(*b"the sea.")

TYPES = {"pointer": c_void_p, "callback": c_void_p, "int32_t": c_int32, "uint32_t": c_uint32,
         "uint64_t": c_uint64, "size_t": c_size_t, "bool": c_bool, "void": None, "text": c_char_p,
         "count": c_uint64}
progress_fn = CFUNCTYPE(c_int32, c_void_p, c_uint64, c_uint64)
log_fn = CFUNCTYPE(None, c_void_p, c_uint32, c_char_p)
call_fn = CFUNCTYPE(None, c_void_p)


def declared(path, functions):
    library = ctypes.CDLL(path)
    for name, returns, *params in functions:
        function = getattr(library, name)
        function.restype = TYPES[returns]
        function.argtypes = [TYPES[param] for param in params]
    return library


def need(condition, what):
    if not condition:
        print(f"{what}; last error: {tern.tern_last_error()}", flush=True)
        sys.exit(2)


def sized(n_words, **words):
    """A struct of 32-bit words that starts with its size."""
    block = (c_uint32 * n_words)(4 * n_words)
    for at, value in words.items():
        block[int(at[1:])] = value
    return block


class Handles:
    def __init__(self):
        self.of = {(kind, variant): None for kind in KINDS for variant in range(8)}
        self.logs = log_fn(lambda user_data, level, message: None)
        self.goes_on = progress_fn(lambda user_data, done, total: 0)
        self.cancels = progress_fn(lambda user_data, done, total: 1)

    def try_to_make(self, kind, model=None, library=None):
        """An empty one, and the status of that."""
        library, made = library or tern, c_void_p()
        model = model or self.of[MODEL, LIVE]
        if kind == MODEL:
            status = library.tern_model_load(b"model.gguf", None, byref(made))
        elif kind == SESSION:
            params = sized(6, w1=96, w3=1, w5=4)
            status = library.tern_session_new(model, params, byref(made))
        elif kind == SAMPLER:
            status = library.tern_sampler_new(None, byref(made))
        else:
            status = library.tern_decoder_new(model, byref(made))
        return status, made.value

    def make(self, kind, model=None, empty=False, library=None):
        status, made = self.try_to_make(kind, model, library)
        need(status == OK, f"making a {NAMES[kind]} gave {status}")
        if kind == SESSION and not empty:
            segment = sized(6, w1=4, w2=6)
            need(tern.tern_session_kv_segment_set(made, b"sea", segment) == OK, "a segment")
            need(tern.tern_session_eval(made, PROMPT, 8) == OK, "the prompt")
        return made

    def free(self, kind, handle):
        getattr(tern, f"tern_{NAMES[kind]}_free")(handle)

    def renew(self, kind):
        if self.of[kind, LIVE] is not None:
            self.free(kind, self.of[kind, LIVE])
        self.of[kind, LIVE] = self.make(kind)

    def set_up(self, has_hooks, other):
        self.of[MODEL, LIVE] = self.make(MODEL)
        for kind in KINDS[1:]:
            self.renew(kind)
        for kind in KINDS:
            self.of[kind, REUSED] = self.make(kind, empty=True)
            self.free(kind, self.of[kind, REUSED])
            for _ in range(1, 64 if kind == MODEL else 256):
                self.free(kind, self.make(kind, empty=True))
            successor = self.make(kind, empty=True)
            need(successor | 127 == self.of[kind, REUSED] | 127, "slots are filled in turn")
            self.of[kind, STALE] = self.make(kind, empty=True)
            self.free(kind, self.of[kind, STALE])
        self.of[SESSION, EMPTY] = self.make(SESSION, empty=True)
        if has_hooks:
            for kind in KINDS[1:]:
                self.of[kind, POISONED] = handle = self.make(kind)
                status = tern.tern_test_hold(kind, handle, True, None, None)
                need(status == -14, "a panic is an internal error")
        if other is not None:
            self.of[MODEL, FOREIGN] = model = self.make(MODEL, library=other)
            for kind in KINDS[1:]:
                self.of[kind, FOREIGN] = self.make(kind, model, True, other)
        live = self.of[SESSION, LIVE], self.of[SAMPLER, LIVE]
        need(tern.tern_session_save(*live, b"session.tern") == OK, "saving")
        read_only = os.open("model.gguf", os.O_RDONLY)
        closed = os.dup(read_only)
        write_only = os.open("write_only", os.O_WRONLY | os.O_CREAT, 0o600)
        pipe = os.pipe()
        os.close(closed)
        # Where run.c has its folder: after all else, so that nothing takes the closed one's place.
        self.descriptors = [read_only, closed, write_only, pipe[0], os.open(".", os.O_RDONLY)]
        self.descriptors[1] = 1 << 20

    def callback(self, which):
        made = {0: None, 1: self.goes_on, 2: self.cancels, 3: self.logs}[which]
        return ctypes.cast(made, c_void_p).value if made else 0


class Case:
    def __init__(self, words, handles):
        self.handles, self.n_calls, self.found, self.sentence = handles, 0, None, b""
        take = lambda: int(next(words))
        self.id, self.function, self.how, self.kind = take(), take(), take(), take()
        n_args, n_blocks, n_relocs, n_expected = take(), take(), take(), take()
        self.name = next(words)
        self.behind = []
        self.blocks = [self.block(words) for _ in range(n_blocks)]
        for _ in range(n_relocs):
            what, block, at, to, offset = next(words), take(), take(), take(), take()
            value = handles.callback(to) if what == "f" else self.address(to) + offset
            c_uint64.from_buffer(self.blocks[block][1], at).value = value
        self.args = [self.argument(words) for _ in range(n_args)]
        self.expected = [take() for _ in range(n_expected)]
        self.before = [bytes(block) for _, block in self.blocks]

    def block(self, words):
        assert next(words) == "b"
        role, size, text = next(words), int(next(words)), next(words)
        if text[0] == "@":
            with open(text[1:], "rb") as file:
                content = file.read()
        else:
            content = bytes.fromhex(text) if text != "-" else b"\x5a" * size
        room = aligned(len(content))
        self.behind.append(room[max(len(content), 1):])
        block = (ctypes.c_ubyte * max(len(content), 1)).from_buffer(room)
        ctypes.memmove(block, content, len(content))
        return role, block

    def address(self, block):
        return ctypes.addressof(self.blocks[block][1])

    def argument(self, words):
        what = next(words)
        if what in "sx":  # an address that is no handle's: of the interpreter, of a function
            return id(self) if what == "s" else ctypes.cast(tern.tern_version, c_void_p).value
        a = int(next(words))
        if what == "h":
            variant = int(next(words))
            if variant == FRESH:
                self.handles.of[a, FRESH] = self.handles.make(a)
            if variant == ORPHAN:  # one that no case has changed
                parent = self.handles.make(MODEL)
                self.handles.of[a, ORPHAN] = self.handles.make(a, parent)
                self.handles.free(MODEL, parent)
            return self.handles.of[a, variant]
        if what == "n":
            return (self.handles.of[a, LIVE] + int(next(words))) % (1 << 64)
        if what == "z":
            return len(self.blocks[a][1]) + int(next(words))
        if what == "p":
            return self.address(a) + int(next(words))
        return {"c": self.handles.callback, "d": lambda d: self.handles.descriptors[d],
                "i": lambda i: i}[what](a)

    def run_once(self, *_):
        self.n_calls += 1
        if self.n_calls > 1:
            return 0
        status = tern.tern_device_describe(77777, sized(6))
        need(status == -1, "device 77777 is none")
        former = tern.tern_last_error()
        function = getattr(tern, functions[self.function][0])
        kinds = functions[self.function][2:]
        args = [a % (1 << 64) if k in ("pointer", "callback", "size_t", "uint64_t") and a else a
                for a, k in zip(self.args, kinds)]
        found = function(*args)
        if isinstance(found, bytes):
            found = len(found) > 0
        if function.restype is c_uint64:  # how many does not matter
            found = found > 0
        self.found = 0 if found is None else int(found)
        self.sentence = tern.tern_last_error()
        if self.sentence == former:
            self.sentence = b""
        return 0

    def run(self):
        if self.how == THREAD:
            thread = threading.Thread(target=self.run_once)
            thread.start()
            thread.join()
        elif self.how == PROGRESS:
            progress = progress_fn(self.run_once)
            params, model = sized(12), c_void_p()
            c_void_p.from_buffer(params, 16).value = ctypes.cast(progress, c_void_p).value
            need(tern.tern_model_load(b"model.gguf", params, byref(model)) == OK, "loading")
            tern.tern_model_free(model)
        elif self.how == PACKING:
            progress = progress_fn(self.run_once)
            status = tern.tern_model_pack(b"model.gguf", b"again.gguf",
                                          ctypes.cast(progress, c_void_p), None)
            need(status == OK, "packing")
        elif self.how == LOG:
            log = log_fn(lambda *_: self.run_once() and None)
            tern.tern_log_set(4, ctypes.cast(log, c_void_p), None)
            tern.tern_model_free(self.handles.make(MODEL))
            tern.tern_log_set(0, None, None)
        elif self.how == FULL:  # while there are as many of a kind as there can be
            others = []
            while (made := self.handles.try_to_make(self.kind))[0] == OK:
                others.append(made[1])
            self.run_once()
            for handle in others:
                self.handles.free(self.kind, handle)
        elif self.how in (HELD, SHARED):
            call = call_fn(lambda _: self.run_once() and None)
            handle = self.handles.of[self.kind, FRESH] or self.handles.of[self.kind, LIVE]
            status = tern.tern_test_hold(self.kind, handle, self.how == HELD,
                                         ctypes.cast(call, c_void_p), None)
            need(status == OK, "holding a handle")
        else:
            self.run_once()
        if self.n_calls == 0:
            self.fail("was never called")

    def fail(self, what):
        global n_failures
        n_failures += 1
        print(f"case {self.id} {self.name}: {what}\n  last error: {self.sentence}", flush=True)

    def check(self):
        if self.found not in self.expected:
            self.fail(f"gave {self.found}, expected {self.expected}")
        failed = functions[self.function][1] == "int32_t" and self.found != OK
        if failed and not self.sentence:
            self.fail("no sentence says why it failed")
        if failed and tern.tern_status_name(self.found) == b"unknown":
            self.fail("the header does not know the code")
        for i, ((role, block), before) in enumerate(zip(self.blocks, self.before)):
            changed, n = bytes(block) != before, f"block {i}"
            if any(byte != 0xA5 for byte in self.behind[i]):
                self.fail(f"more was written than there is room for, {n}")
            learns = role == "l" and self.found == BUFFER_TOO_SMALL
            if role == "i" and changed:
                self.fail(f"an input was written to, {n}")
            elif role in "olf0123" and failed and changed and not learns:
                self.fail(f"something was written in spite of the error, {n}")
            elif role in "ol0123" and not changed and (not failed or learns):
                self.fail(f"an out parameter was not written, {n}")
            if role in "0123" and not failed and changed:
                self.handles.free(int(role), c_void_p.from_buffer(block).value)
        return failed

    def check_nothing_happened(self):
        """Whatever a call did that failed, what was there before is there."""
        live = [self.handles.of[kind, LIVE] for kind in KINDS]
        info, text, n = sized(36), c_void_p(), c_size_t()
        status = tern.tern_session_describe(live[SESSION], info)
        if status != OK or (info[2], info[3]) != (8, 8):
            self.fail(f"the session is not what it was: {status}, {list(info)[:4]}")
        status = tern.tern_decoder_push(live[DECODER], ord("."), byref(text), byref(n))
        if status != OK or ctypes.string_at(text, n.value) != b".":
            self.fail(f"the decoder is not what it was: {status}")
        if tern.tern_model_describe(live[MODEL], sized(28)) != OK:
            self.fail("the model is not what it was")

    def clean_up(self, failed):
        for kind in KINDS:
            for variant in FRESH, ORPHAN:
                if self.handles.of[kind, variant] is not None:
                    self.handles.free(kind, self.handles.of[kind, variant])
                self.handles.of[kind, variant] = None
        if is_child:
            return  # the handles are its parent's
        # What was read again and not to its end leaves no tokens, says the header.
        half_done = self.found == -15 and "kv_rebuild" in self.name
        if failed and not half_done:
            self.check_nothing_happened()
        else:
            for kind in KINDS[1:]:
                self.handles.renew(kind)


def aligned(size):
    """A buffer that is aligned as malloc() aligns, and 256 bytes behind it that nobody writes."""
    whole = bytearray(b"\xa5" * (size + 300))
    start = -ctypes.addressof(ctypes.c_ubyte.from_buffer(whole)) % 16
    return memoryview(whole)[start:start + size + 256]


def main():
    global is_child
    handles = Handles()
    handles.set_up(has_hooks, other)
    words, n, expects_more = iter(open(cases).read().split()), 0, True
    for word in words:
        assert word == "case", word
        case = Case(words, handles)
        if case.how == FORKED and not is_child:
            # The rest is for a child, which has the parent's handles.
            child = os.fork()
            if child:
                _, status = os.waitpid(child, 0)
                sys.exit(status != 0 or n_failures != 0)
            is_child = True
        case.run()
        case.clean_up(case.check())
        n += 1
    print(f"{n} cases", flush=True)
    os._exit(n_failures != 0)


n_failures, is_child = 0, False
_, path, cases, signatures, *rest = sys.argv
functions = [line.split() for line in open(signatures)]
tern = declared(path, functions)
has_hooks = hasattr(tern, "tern_test_hold")
if has_hooks:
    tern.tern_test_hold.argtypes = [c_uint32, c_void_p, c_bool, c_void_p, c_void_p]
other = declared(rest[0], functions) if rest else None
main()
