//! What stands for signatures in a library without them: a required one is refused.

use std::convert::Infallible;
use std::marker::PhantomData;

use super::Trust;
use crate::backend::TensorRef;
use crate::base::error::{Result, err};
use crate::base::file::{LoadMode, Source};
use crate::engine::load::Input;
use crate::gguf::Gguf;

/// There is none.
pub(crate) struct Signed<'a>(Infallible, PhantomData<&'a ()>);

/// Nor this.
pub(crate) struct Check(Infallible);

impl<'a> Signed<'a> {
    pub(crate) fn text(_: Input<'_>, _: &Trust<'_>) -> Result<Vec<u8>> {
        Err(err!(Unsupported, "this library checks no signatures: see TERN_SIGNED_MODELS"))
    }

    pub(crate) fn new(_: &'a [u8], _: &Trust<'_>, _: &'a Source<'a>) -> Result<Signed<'a>> {
        Err(err!(Unsupported, "this library checks no signatures"))
    }

    pub(crate) fn check_header(&self, _: &Gguf) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn check_tensor(&self, _: u64, _: &[u8]) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn begin(
        &self,
        _: u64,
        _: impl ExactSizeIterator<Item = TensorRef>,
    ) -> Result<Check> {
        match self.0 {}
    }

    pub(crate) fn check_data(&self, _: u64, _: &[u8]) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn check_mode(&self, _: LoadMode) -> Result<()> {
        match self.0 {}
    }
}

impl Check {
    pub(crate) fn hand_in(&self, _: u64, _: &[u8]) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn fail(&self) {
        match self.0 {}
    }

    pub(crate) fn finish(&self) -> Result<()> {
        match self.0 {}
    }
}
