//! A model's file against its manifest.

use std::path::Path;

use super::super::load::Input;
use super::{SUFFIX, Trust};
use crate::backend::TensorRef;
use crate::base::error::{Error, Result, err};
use crate::base::file::{LoadMode, Source};
use crate::base::heap;
use crate::gguf::Gguf;
use crate::manifest::check::{Check, check_part};
use crate::manifest::{MAX_BYTES, Manifest};

/// A manifest that somebody trusted has signed, and the file that it should be of.
pub(crate) struct Signed<'a> {
    manifest: Manifest<'a>,
    source: &'a Source<'a>,
}

impl<'a> Signed<'a> {
    /// The text of the manifest that belongs to a model.
    pub(crate) fn text(input: Input<'_>, trust: &Trust<'_>) -> Result<Vec<u8>> {
        text_of(input, trust)
    }

    /// Checks who signed a manifest, and the file's length and header.
    pub(crate) fn new(
        text: &'a [u8],
        trust: &Trust<'_>,
        source: &'a Source<'a>,
    ) -> Result<Signed<'a>> {
        let manifest = Manifest::parse(text)?;
        manifest.check_signed(trust.keys)?;
        let (version, least) = (manifest.version, trust.min_version);
        if version < least {
            return Err(err!(
                Rollback,
                "manifest: its version is {version}, expected {least} or later"
            ));
        }
        let (found, signed) = (source.len(), manifest.bytes);
        if found != signed {
            return Err(err!(
                BadDigest,
                "the file has {found} bytes, that which was signed has {signed}"
            ));
        }
        check_part(&manifest, source, 0, &[])?;
        Ok(Signed { manifest, source })
    }

    /// That the header which was parsed is the one that was signed: it was read again.
    pub(crate) fn check_header(&self, gguf: &Gguf) -> Result<()> {
        check_part(&self.manifest, self.source, 0, gguf.header())
    }

    /// The same of a tensor that is read by itself: its bytes are here.
    pub(crate) fn check_tensor(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        check_part(&self.manifest, self.source, offset, bytes)
    }

    /// Begins the pass over the weights; these tensors will be handed in, in the file's order.
    pub(crate) fn begin(
        &self,
        data_offset: u64,
        tensors: impl ExactSizeIterator<Item = TensorRef>,
    ) -> Result<Check<'_>> {
        let range = |t: TensorRef| {
            let begin = data_offset + t.offset as u64;
            (begin, begin + t.bytes as u64)
        };
        let ranges = heap::collect(tensors.len(), tensors.map(range), "ranges of a file")?;
        Check::new(&self.manifest, self.source, ranges)
    }

    /// The same for all weights at once, which are here.
    pub(crate) fn check_data(&self, data_offset: u64, data: &[u8]) -> Result<()> {
        // What lies before the first tensor is the header's part.
        let first = self.manifest.parts.first().map_or(0, |part| part.bytes);
        let Some(rest) = first.checked_sub(data_offset).and_then(|n| data.get(n as usize..)) else {
            return Err(err!(
                BadManifest,
                "manifest: its first part has {first} bytes, expected {data_offset} at least"
            ));
        };
        let mut range = heap::reserve(1, "ranges of a file")?;
        range.push((first, first + rest.len() as u64));
        let check = Check::new(&self.manifest, self.source, range)?;
        check.hand_in(first, rest)?;
        check.finish()
    }

    /// Fails for a way of loading that can be no promise about what is evaluated.
    pub(crate) fn check_mode(&self, mode: LoadMode) -> Result<()> {
        match mode {
            LoadMode::Copy | LoadMode::MapGuarded => Ok(()),
            LoadMode::MapFast => Err(err!(
                Unsupported,
                "a model whose signature is required is copied, or mapped and guarded"
            )),
        }
    }
}

/// The text of the manifest that belongs to a model.
fn text_of(input: Input<'_>, trust: &Trust<'_>) -> Result<Vec<u8>> {
    if let Some(text) = trust.manifest {
        return heap::collect(text.len(), text.iter().copied(), "bytes of a manifest");
    }
    let Input::Path(path) = input else {
        return Err(err!(NotSigned, "the model has no path and came without its manifest"));
    };
    let path = beside(path)?;
    let source = Source::open(Path::new(&path)).map_err(|error| match error {
        Error::Io(why) => err!(NotSigned, "{}", why.as_str()),
        other => other,
    })?;
    if source.len() > MAX_BYTES {
        let n = source.len();
        return Err(err!(BadManifest, "{path}: {n} bytes, expected at most {MAX_BYTES}"));
    }
    let n = source.len() as usize;
    let mut text = heap::reserve(n, "bytes of a manifest")?;
    text.resize(n, 0);
    source.read_at(0, &mut text)?;
    Ok(text)
}

/// The path of the manifest beside a model. Fails with `NotSigned` if the model's is not UTF-8.
fn beside(path: &Path) -> Result<String> {
    let Some(path) = path.to_str() else {
        return Err(err!(NotSigned, "a manifest is found by a path in UTF-8 only"));
    };
    let mut beside = String::new();
    heap::push(&mut beside, path)?;
    heap::push(&mut beside, SUFFIX)?;
    Ok(beside)
}
