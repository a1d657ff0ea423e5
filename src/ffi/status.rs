//! Status codes, and the last error of each thread.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char};

use crate::base::error::Error;

/// The result of a call that can fail: TERN_OK, or a negative code. Codes are never renumbered;
/// a program should expect codes that it does not know.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum tern_status {
    /// Success; out parameters are set.
    TERN_OK = 0,
    /// An argument is NULL, out of range, or not valid UTF-8.
    TERN_ERROR_INVALID_ARGUMENT = -1,
    /// A handle is NULL, was freed, or was never a handle.
    TERN_ERROR_INVALID_HANDLE = -2,
    /// The buffer is too small; its length parameter now says how large it must be.
    TERN_ERROR_BUFFER_TOO_SMALL = -3,
    /// Memory, on the host or the device, ran out.
    TERN_ERROR_OUT_OF_MEMORY = -4,
    /// The file cannot be opened or read.
    TERN_ERROR_IO = -5,
    /// The file is damaged, cut short, or is not a GGUF file.
    TERN_ERROR_BAD_FILE = -6,
    /// The request is well formed, but this build or device cannot serve it.
    TERN_ERROR_UNSUPPORTED = -7,
    /// The KV cache has no room for the tokens; evict, or make a larger session.
    TERN_ERROR_KV_FULL = -8,
    /// There are no logits yet; eval first.
    TERN_ERROR_NOT_READY = -9,
    /// tern_session_abort() or tern_session_free() stopped the call, or its progress callback did.
    TERN_ERROR_ABORTED = -10,
    /// Another thread is using the handle.
    TERN_ERROR_BUSY = -11,
    /// A device driver failed; the session can only be freed.
    TERN_ERROR_DEVICE = -12,
    /// A bug in tern ended an earlier call on this handle; it can only be freed.
    TERN_ERROR_POISONED = -13,
    /// A bug in tern ended this call. Please report it, with tern_last_error().
    TERN_ERROR_INTERNAL = -14,
    /// The deadline of the call passed.
    TERN_ERROR_DEADLINE = -15,
    /// The model's chat template is missing, malformed, or does more than it may.
    TERN_ERROR_BAD_TEMPLATE = -16,
    /// The file's hyperparameters are missing, out of range, or contradict each other.
    TERN_ERROR_BAD_HPARAMS = -17,
    /// A tensor of the file is missing, or its shape, type or place is wrong.
    TERN_ERROR_BAD_TENSOR = -18,
    /// The file's vocabulary is missing, inconsistent, or refers to tokens that do not exist.
    TERN_ERROR_BAD_VOCAB = -19,
    /// A weight in the file is not a finite number.
    TERN_ERROR_BAD_WEIGHTS = -20,
    /// The file's architecture is none that tern knows.
    TERN_ERROR_UNSUPPORTED_ARCH = -21,
    /// A tensor's element type is none that tern knows.
    TERN_ERROR_UNSUPPORTED_DTYPE = -22,
    /// The file's tokenizer is none that tern knows.
    TERN_ERROR_UNSUPPORTED_TOKENIZER = -23,
    /// The model's file changed while it was loaded, or mapped; see TERN_LOAD_MAP_GUARDED.
    TERN_ERROR_MODEL_CHANGED = -24,
    /// The handle was made before this process was forked from its parent, whose it is.
    TERN_ERROR_FORKED = -25,
    /// A documented limit was reached, as the number of handles.
    TERN_ERROR_LIMIT = -26,
    /// The logits are not finite numbers; there is nothing to choose from.
    TERN_ERROR_NOT_FINITE = -27,
    /// The file was packed for another version of tern: pack the original again with this one.
    TERN_ERROR_UNSUPPORTED_PACKING = -28,
    /// The snapshot is damaged, cut short, or not a snapshot.
    TERN_ERROR_SNAPSHOT_CORRUPT = -29,
    /// The snapshot's format is that of another version of tern.
    TERN_ERROR_SNAPSHOT_VERSION = -30,
    /// The snapshot was made with another model.
    TERN_ERROR_SNAPSHOT_MODEL = -31,
    /// The snapshot was made with other parameters of the session or the sampler.
    TERN_ERROR_SNAPSHOT_LAYOUT = -32,
    /// A signature is required, and the model has no manifest, or one that nobody signed.
    TERN_ERROR_NOT_SIGNED = -33,
    /// The model's manifest is damaged, cut short, or is not a manifest.
    TERN_ERROR_BAD_MANIFEST = -34,
    /// No trusted key has signed the manifest, or it is not as it was when it was signed.
    TERN_ERROR_BAD_SIGNATURE = -35,
    /// The model's file is not as it was when its manifest was signed.
    TERN_ERROR_BAD_DIGEST = -36,
    /// The model's version in its manifest is lower than the least that is accepted.
    TERN_ERROR_ROLLBACK = -37,
}
use tern_status::*;

/// Names, by the negated code.
const NAMES: [&CStr; 38] = [
    c"TERN_OK",
    c"TERN_ERROR_INVALID_ARGUMENT",
    c"TERN_ERROR_INVALID_HANDLE",
    c"TERN_ERROR_BUFFER_TOO_SMALL",
    c"TERN_ERROR_OUT_OF_MEMORY",
    c"TERN_ERROR_IO",
    c"TERN_ERROR_BAD_FILE",
    c"TERN_ERROR_UNSUPPORTED",
    c"TERN_ERROR_KV_FULL",
    c"TERN_ERROR_NOT_READY",
    c"TERN_ERROR_ABORTED",
    c"TERN_ERROR_BUSY",
    c"TERN_ERROR_DEVICE",
    c"TERN_ERROR_POISONED",
    c"TERN_ERROR_INTERNAL",
    c"TERN_ERROR_DEADLINE",
    c"TERN_ERROR_BAD_TEMPLATE",
    c"TERN_ERROR_BAD_HPARAMS",
    c"TERN_ERROR_BAD_TENSOR",
    c"TERN_ERROR_BAD_VOCAB",
    c"TERN_ERROR_BAD_WEIGHTS",
    c"TERN_ERROR_UNSUPPORTED_ARCH",
    c"TERN_ERROR_UNSUPPORTED_DTYPE",
    c"TERN_ERROR_UNSUPPORTED_TOKENIZER",
    c"TERN_ERROR_MODEL_CHANGED",
    c"TERN_ERROR_FORKED",
    c"TERN_ERROR_LIMIT",
    c"TERN_ERROR_NOT_FINITE",
    c"TERN_ERROR_UNSUPPORTED_PACKING",
    c"TERN_ERROR_SNAPSHOT_CORRUPT",
    c"TERN_ERROR_SNAPSHOT_VERSION",
    c"TERN_ERROR_SNAPSHOT_MODEL",
    c"TERN_ERROR_SNAPSHOT_LAYOUT",
    c"TERN_ERROR_NOT_SIGNED",
    c"TERN_ERROR_BAD_MANIFEST",
    c"TERN_ERROR_BAD_SIGNATURE",
    c"TERN_ERROR_BAD_DIGEST",
    c"TERN_ERROR_ROLLBACK",
];

fn status_of(error: &Error) -> tern_status {
    match error {
        Error::InvalidArgument(_) => TERN_ERROR_INVALID_ARGUMENT,
        Error::InvalidHandle(_) => TERN_ERROR_INVALID_HANDLE,
        Error::BufferTooSmall(_) => TERN_ERROR_BUFFER_TOO_SMALL,
        Error::OutOfMemory(_) => TERN_ERROR_OUT_OF_MEMORY,
        Error::Io(_) => TERN_ERROR_IO,
        Error::BadFile(_) => TERN_ERROR_BAD_FILE,
        Error::Unsupported(_) => TERN_ERROR_UNSUPPORTED,
        Error::KvFull(_) => TERN_ERROR_KV_FULL,
        Error::NotReady(_) => TERN_ERROR_NOT_READY,
        Error::Aborted(_) => TERN_ERROR_ABORTED,
        Error::Busy(_) => TERN_ERROR_BUSY,
        Error::Device(_) => TERN_ERROR_DEVICE,
        Error::Poisoned(_) => TERN_ERROR_POISONED,
        Error::Internal(_) => TERN_ERROR_INTERNAL,
        Error::Deadline(_) => TERN_ERROR_DEADLINE,
        Error::BadTemplate(_) => TERN_ERROR_BAD_TEMPLATE,
        Error::BadHparams(_) => TERN_ERROR_BAD_HPARAMS,
        Error::BadTensor(_) => TERN_ERROR_BAD_TENSOR,
        Error::BadVocab(_) => TERN_ERROR_BAD_VOCAB,
        Error::BadWeights(_) => TERN_ERROR_BAD_WEIGHTS,
        Error::UnsupportedArch(_) => TERN_ERROR_UNSUPPORTED_ARCH,
        Error::UnsupportedDtype(_) => TERN_ERROR_UNSUPPORTED_DTYPE,
        Error::UnsupportedTokenizer(_) => TERN_ERROR_UNSUPPORTED_TOKENIZER,
        Error::ModelChanged(_) => TERN_ERROR_MODEL_CHANGED,
        Error::Forked(_) => TERN_ERROR_FORKED,
        Error::Limit(_) => TERN_ERROR_LIMIT,
        Error::NotFinite(_) => TERN_ERROR_NOT_FINITE,
        Error::UnsupportedPacking(_) => TERN_ERROR_UNSUPPORTED_PACKING,
        Error::SnapshotCorrupt(_) => TERN_ERROR_SNAPSHOT_CORRUPT,
        Error::SnapshotVersion(_) => TERN_ERROR_SNAPSHOT_VERSION,
        Error::SnapshotModel(_) => TERN_ERROR_SNAPSHOT_MODEL,
        Error::SnapshotLayout(_) => TERN_ERROR_SNAPSHOT_LAYOUT,
        Error::NotSigned(_) => TERN_ERROR_NOT_SIGNED,
        Error::BadManifest(_) => TERN_ERROR_BAD_MANIFEST,
        Error::BadSignature(_) => TERN_ERROR_BAD_SIGNATURE,
        Error::BadDigest(_) => TERN_ERROR_BAD_DIGEST,
        Error::Rollback(_) => TERN_ERROR_ROLLBACK,
    }
}

/// Bytes for the last error of a thread, its NUL included.
const LAST_LEN: usize = 512;

// The last message of each thread: a fixed buffer, so that failing allocates nothing and a thread
// that ends, or an unloaded library, leaves nothing to destroy.
thread_local! {
    static LAST: UnsafeCell<[u8; LAST_LEN]> = const { UnsafeCell::new([0; LAST_LEN]) };
}

/// Makes an error the thread's last one.
#[cold]
#[inline(never)] // 60 functions have it, one copy
pub(super) fn record(error: &Error) -> tern_status {
    let message = error.message();
    LAST.with(|last| {
        // SAFETY: this thread's own, and no other reference to it is made while this one lives.
        let buffer = unsafe { &mut *last.get() };
        let mut n = 0;
        for (to, from) in buffer.iter_mut().take(LAST_LEN - 1).zip(message.bytes()) {
            // A NUL, from a name in a file perhaps, would end the message early.
            *to = if from == 0 { b'?' } else { from };
            n += 1;
        }
        if let Some(end) = buffer.get_mut(n) {
            *end = 0;
        }
    });
    status_of(error)
}

/// Describes the last error on the calling thread, in English.
///
/// Lent until the thread's next failing call. Only meaningful right after a failure.
#[unsafe(no_mangle)]
pub extern "C" fn tern_last_error() -> *const c_char {
    LAST.with(|last| last.get().cast_const().cast())
}

/// Names a status, as in "TERN_ERROR_KV_FULL"; "unknown" for a code from a newer library.
#[unsafe(no_mangle)]
pub extern "C" fn tern_status_name(status: i32) -> *const c_char {
    let name = usize::try_from(-i64::from(status)).ok().and_then(|i| NAMES.get(i));
    name.unwrap_or(&c"unknown").as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::err;

    #[test]
    fn each_error_has_its_own_status_and_name() {
        let errors = [
            err!(InvalidArgument, ""),
            err!(InvalidHandle, ""),
            err!(BufferTooSmall, ""),
            err!(OutOfMemory, ""),
            err!(Io, ""),
            err!(BadFile, ""),
            err!(Unsupported, ""),
            err!(KvFull, ""),
            err!(NotReady, ""),
            err!(Aborted, ""),
            err!(Busy, ""),
            err!(Device, ""),
            err!(Poisoned, ""),
            err!(Internal, ""),
            err!(Deadline, ""),
            err!(BadTemplate, ""),
            err!(BadHparams, ""),
            err!(BadTensor, ""),
            err!(BadVocab, ""),
            err!(BadWeights, ""),
            err!(UnsupportedArch, ""),
            err!(UnsupportedDtype, ""),
            err!(UnsupportedTokenizer, ""),
            err!(ModelChanged, ""),
            err!(Forked, ""),
            err!(Limit, ""),
            err!(NotFinite, ""),
            err!(UnsupportedPacking, ""),
            err!(SnapshotCorrupt, ""),
            err!(SnapshotVersion, ""),
            err!(SnapshotModel, ""),
            err!(SnapshotLayout, ""),
            err!(NotSigned, ""),
            err!(BadManifest, ""),
            err!(BadSignature, ""),
            err!(BadDigest, ""),
            err!(Rollback, ""),
        ];
        assert_eq!(errors.len() + 1, NAMES.len());
        for (i, error) in errors.iter().enumerate() {
            let code = status_of(error) as i32;
            assert_eq!(code, -(i as i32) - 1);
            // SAFETY: `tern_status_name` gives a string that ends in NUL.
            let name = unsafe { CStr::from_ptr(tern_status_name(code)) };
            assert_eq!(name.to_str(), Ok(error.name()));
        }
        for code in [1, -38, i32::MIN, i32::MAX] {
            // SAFETY: as above.
            assert_eq!(unsafe { CStr::from_ptr(tern_status_name(code)) }, c"unknown");
        }
    }

    #[test]
    fn a_message_holds_no_nul_of_its_own() {
        let _ = record(&err!(BadFile, "key a\0b"));
        // SAFETY: ends in NUL.
        assert_eq!(unsafe { CStr::from_ptr(tern_last_error()) }, c"key a?b");
    }
}
