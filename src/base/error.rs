//! Errors: one variant for each status of the C API, each with one sentence.
//!
//! An error is three words, so that functions hand it on for little, and most of the library is
//! code that hands errors on. Its sentence is on the heap; where there is no memory for one, a
//! fixed sentence takes its place and the variant is what it was.

use std::fmt;

use super::line::Line;

/// What a fallible function of tern returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Bytes that a sentence can hold; longer ones are cut at a character boundary.
const SENTENCE_LEN: usize = 238;

/// What an error says when there is no memory to say more.
const NO_MEMORY: &str = "there is no memory left to say why";

/// One sentence that says what failed, where, what was found and what was expected.
#[derive(PartialEq, Eq)]
pub struct Sentence {
    /// UTF-8; empty where there was no memory for it.
    bytes: Box<[u8]>,
}

impl Sentence {
    /// Formats a sentence; what does not fit is cut.
    #[cold]
    #[inline(never)]
    pub fn new(args: fmt::Arguments<'_>) -> Sentence {
        // Texts of files are quoted here: one NUL would end the sentence for a caller in C, and
        // others move the cursor of whoever reads it on a terminal.
        Sentence::of(Line::<SENTENCE_LEN>::of(args).without_controls().as_bytes())
    }

    fn of(text: &[u8]) -> Sentence {
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(text.len()).is_ok() {
            bytes.extend_from_slice(text); // as long as its capacity, so that boxing moves nothing
        }
        Sentence { bytes: bytes.into_boxed_slice() }
    }

    /// The sentence.
    pub fn as_str(&self) -> &str {
        match std::str::from_utf8(&self.bytes) {
            Ok("") | Err(_) => NO_MEMORY,
            Ok(text) => text,
        }
    }
}

impl Clone for Sentence {
    fn clone(&self) -> Sentence {
        Sentence::of(&self.bytes)
    }
}

impl fmt::Debug for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Declares [`Error`] with the C name of each variant, so that neither can miss one.
macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a call failed. One variant for each `TERN_ERROR_*` of the C API.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Error {
            $($(#[$doc])* $variant(Sentence),)*
        }

        impl Error {
            /// The sentence that says more.
            pub fn message(&self) -> &str {
                match self { $(Error::$variant(sentence) => sentence.as_str(),)* }
            }

            /// The name that the C API gives this kind of error, as in "TERN_ERROR_IO".
            pub fn name(&self) -> &'static str {
                match self { $(Error::$variant(_) => $name,)* }
            }
        }
    };
}

errors! {
    /// An argument is NULL, out of range, or not valid UTF-8.
    InvalidArgument = "TERN_ERROR_INVALID_ARGUMENT",
    /// A handle is NULL, was freed, or was never a handle.
    InvalidHandle = "TERN_ERROR_INVALID_HANDLE",
    /// A buffer is too small; the needed length has been written.
    BufferTooSmall = "TERN_ERROR_BUFFER_TOO_SMALL",
    /// Memory, on the host or the device, ran out.
    OutOfMemory = "TERN_ERROR_OUT_OF_MEMORY",
    /// The file cannot be opened or read.
    Io = "TERN_ERROR_IO",
    /// The file is damaged, cut short, or not a GGUF file.
    BadFile = "TERN_ERROR_BAD_FILE",
    /// Well formed, but this build or device cannot serve it.
    Unsupported = "TERN_ERROR_UNSUPPORTED",
    /// The KV cache has no room for the tokens.
    KvFull = "TERN_ERROR_KV_FULL",
    /// There are no logits yet.
    NotReady = "TERN_ERROR_NOT_READY",
    /// The call was aborted, or its progress callback said stop.
    Aborted = "TERN_ERROR_ABORTED",
    /// Another thread is using the handle.
    Busy = "TERN_ERROR_BUSY",
    /// A device driver failed.
    Device = "TERN_ERROR_DEVICE",
    /// A bug ended an earlier call on this handle.
    Poisoned = "TERN_ERROR_POISONED",
    /// A bug in tern ended this call.
    Internal = "TERN_ERROR_INTERNAL",
    /// The deadline of the call passed.
    Deadline = "TERN_ERROR_DEADLINE",
    /// The chat template is missing, malformed, or exceeds its limits.
    BadTemplate = "TERN_ERROR_BAD_TEMPLATE",
    /// The file's hyperparameters are missing, out of range, or contradict each other.
    BadHparams = "TERN_ERROR_BAD_HPARAMS",
    /// A tensor is missing, or its shape, type or place is wrong.
    BadTensor = "TERN_ERROR_BAD_TENSOR",
    /// The vocabulary is missing, inconsistent, or refers to tokens that do not exist.
    BadVocab = "TERN_ERROR_BAD_VOCAB",
    /// A weight is not a finite number.
    BadWeights = "TERN_ERROR_BAD_WEIGHTS",
    /// The file's architecture is none that tern knows.
    UnsupportedArch = "TERN_ERROR_UNSUPPORTED_ARCH",
    /// A tensor's element type is none that tern knows.
    UnsupportedDtype = "TERN_ERROR_UNSUPPORTED_DTYPE",
    /// The file's tokenizer or pre-tokenizer is none that tern knows.
    UnsupportedTokenizer = "TERN_ERROR_UNSUPPORTED_TOKENIZER",
    /// The model's file changed while it was mapped.
    ModelChanged = "TERN_ERROR_MODEL_CHANGED",
    /// The process was forked; the child cannot use handles made by its parent.
    Forked = "TERN_ERROR_FORKED",
    /// A documented limit was reached.
    Limit = "TERN_ERROR_LIMIT",
    /// The logits are not finite numbers.
    NotFinite = "TERN_ERROR_NOT_FINITE",
    /// The file was packed for another version of tern, or in a layout that it does not know.
    UnsupportedPacking = "TERN_ERROR_UNSUPPORTED_PACKING",
    /// The snapshot is damaged, cut short, or not a snapshot.
    SnapshotCorrupt = "TERN_ERROR_SNAPSHOT_CORRUPT",
    /// The snapshot's format is that of another version of tern.
    SnapshotVersion = "TERN_ERROR_SNAPSHOT_VERSION",
    /// The snapshot was made with another model.
    SnapshotModel = "TERN_ERROR_SNAPSHOT_MODEL",
    /// The snapshot was made with other parameters of the session or the sampler.
    SnapshotLayout = "TERN_ERROR_SNAPSHOT_LAYOUT",
    /// The model has no manifest, or a manifest that nobody signed.
    NotSigned = "TERN_ERROR_NOT_SIGNED",
    /// The model's manifest is damaged, cut short, or none.
    BadManifest = "TERN_ERROR_BAD_MANIFEST",
    /// No trusted key has signed the manifest as it is.
    BadSignature = "TERN_ERROR_BAD_SIGNATURE",
    /// The model's file is not the one of which the manifest was signed.
    BadDigest = "TERN_ERROR_BAD_DIGEST",
    /// The model is older than the caller accepts.
    Rollback = "TERN_ERROR_ROLLBACK",
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.message())
    }
}

impl std::error::Error for Error {}

/// Makes an error: `err!(BadFile, "{name}: {found} bytes, expected {expected}")`.
macro_rules! err {
    ($variant:ident, $($arg:tt)*) => {
        $crate::base::error::Error::$variant($crate::base::error::Sentence::new(format_args!($($arg)*)))
    };
}
pub(crate) use err;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_is_cut_at_a_character() {
        let text = "é".repeat(200);
        let sentence = Sentence::new(format_args!("a{text}"));
        assert_eq!(sentence.as_str().len(), 237);
        assert!(sentence.as_str().ends_with('é'));
    }

    #[test]
    fn a_sentence_is_one_line_without_control_characters() {
        let sentence = Sentence::new(format_args!("a\0b\nc\u{1b}[2Jd\u{7f}é"));
        assert_eq!(sentence.as_str(), "a?b c?[2Jd?é");
    }

    #[test]
    fn an_error_shows_its_code_and_its_sentence() {
        let error = err!(BadFile, "header: {} bytes, expected {}", 3, 24);
        assert_eq!(error.to_string(), "TERN_ERROR_BAD_FILE: header: 3 bytes, expected 24");
    }
}
