//! Sequences of calls of the C API, as a program in C makes them: with handles that live, that were
//! freed, that are of another type or made up, and parameters of all kinds.
#![allow(unsafe_code, reason = "the C API")]

mod model;
mod session;

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

use arbitrary::{Result, Unstructured};
use tern::ffi::*;

use super::noise;
use crate::memory;

/// What a program holds: handles of each type, some freed, and a file.
struct Program<'u, 'b> {
    u: &'u mut Unstructured<'b>,
    models: Vec<*mut tern_model>,
    sessions: Vec<*mut tern_session>,
    samplers: Vec<*mut tern_sampler>,
    decoders: Vec<*mut tern_decoder>,
    snapshot: Vec<u8>,
}

pub fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let mut program = Program {
        u: &mut u,
        models: Vec::new(),
        sessions: Vec::new(),
        samplers: Vec::new(),
        decoders: Vec::new(),
        snapshot: Vec::new(),
    };
    let _ = program.run();
    let Program { models, sessions, samplers, decoders, .. } = program;
    sessions.into_iter().for_each(|s| tern_session_free(s));
    samplers.into_iter().for_each(|s| tern_sampler_free(s));
    decoders.into_iter().for_each(|d| tern_decoder_free(d));
    models.into_iter().for_each(|m| tern_model_free(m));
}

impl Program<'_, '_> {
    fn run(&mut self) -> Result<()> {
        let how = self.u.arbitrary::<u8>()?;
        self.load(how)?;
        for _ in 0..40 {
            match self.u.arbitrary::<u8>()? {
                op @ 0..96 => self.call_model(op)?,
                op => self.call_session(op - 96)?,
            }
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8> {
        self.u.arbitrary()
    }

    /// Mostly small, at times any.
    fn small(&mut self) -> Result<u32> {
        Ok(match self.byte()? {
            n @ 0..240 => u32::from(n),
            240..244 => u32::MAX,
            244..248 => 1 << 31,
            _ => self.u.arbitrary()?,
        })
    }

    /// A handle: mostly one that lives.
    fn pick<T>(&mut self, all: impl Fn(&Self) -> &Vec<*mut T>) -> Result<*mut T> {
        let choice = self.byte()?;
        Ok(match choice {
            250 => null_mut(),
            251 => self.models.first().map_or(null_mut(), |m| m.cast()),
            252 => self.sessions.first().map_or(null_mut(), |s| s.cast()),
            253 => self.samplers.first().map_or(null_mut(), |s| s.cast()),
            254 => self.u.arbitrary::<usize>()? as *mut T,
            _ => {
                let all = all(self);
                all.get(usize::from(choice) % all.len().max(1)).copied().unwrap_or(null_mut())
            }
        })
    }

    fn model(&mut self) -> Result<*mut tern_model> {
        self.pick(|p| &p.models)
    }
    fn session(&mut self) -> Result<*mut tern_session> {
        self.pick(|p| &p.sessions)
    }
    fn sampler(&mut self) -> Result<*mut tern_sampler> {
        self.pick(|p| &p.samplers)
    }
    fn decoder(&mut self) -> Result<*mut tern_decoder> {
        self.pick(|p| &p.decoders)
    }

    fn tokens(&mut self) -> Result<Vec<tern_token>> {
        let n = usize::from(self.byte()? % 48);
        (0..n).map(|_| Ok(self.small()? as tern_token)).collect()
    }

    fn bytes(&mut self, most: u8) -> Result<Vec<u8>> {
        let n = usize::from(self.byte()? % most).min(self.u.len());
        Ok(self.u.bytes(n)?.to_vec())
    }

    /// A text that ends in NUL, as names, keys and paths do.
    fn string(&mut self, known: &[&CStr]) -> Result<Vec<c_char>> {
        let mut bytes = match self.byte()? {
            n @ 0..224 => known[usize::from(n) % known.len()].to_bytes().to_vec(),
            _ => self.bytes(64)?,
        };
        bytes.retain(|&byte| byte != 0);
        bytes.push(0);
        Ok(bytes.into_iter().map(|byte| byte as c_char).collect())
    }

    fn float(&mut self) -> Result<f32> {
        Ok(match self.byte()? {
            n @ 0..200 => f32::from(n) / 100.0,
            200 => f32::NAN,
            201 => f32::INFINITY,
            _ => f32::from_bits(self.u.arbitrary()?),
        })
    }

    /// A size that is right, or what an older or newer program says.
    fn size<T>(&mut self) -> Result<u32> {
        Ok(match self.byte()? {
            0..240 => size_of::<T>() as u32,
            n @ 240..248 => u32::from(n - 240) * 4,
            n @ 248..254 => (size_of::<T>() as u32).saturating_sub(u32::from(n - 248) * 8),
            _ => self.small()?,
        }
        // What is said to be there is there.
        .min(size_of::<T>() as u32))
    }
}

/// Makes a call; any status may come but those that say that tern is broken.
fn call(f: impl FnOnce() -> tern_status) -> bool {
    let status = memory::within(f);
    let is_broken =
        matches!(status, tern_status::TERN_ERROR_INTERNAL | tern_status::TERN_ERROR_POISONED);
    let failed = memory::has_failed();
    assert!(!is_broken, "{status:?}: {:?}", last_error());
    assert!(
        failed || status != tern_status::TERN_ERROR_OUT_OF_MEMORY || is_large(&last_error()),
        "memory did not fail: {}",
        last_error()
    );
    if status != tern_status::TERN_OK {
        assert!(!last_error().is_empty(), "{status:?} says nothing");
    }
    status == tern_status::TERN_OK
}

/// More than there can be: sessions of billions of tokens.
fn is_large(error: &str) -> bool {
    error.bytes().filter(u8::is_ascii_digit).count() > 8
}

fn last_error() -> String {
    // SAFETY: a text that ends in NUL, until the next call of this thread.
    unsafe { CStr::from_ptr(tern_last_error()) }.to_string_lossy().into_owned()
}

/// Looks at all that was lent.
fn read<T: Copy + Default>(pointer: *const T, n: usize) -> Option<T> {
    assert!(n == 0 || !pointer.is_null());
    // SAFETY: lent by the call before, with as many elements.
    (0..n).map(|i| unsafe { pointer.add(i).read() }).last()
}

/// Changes some bytes of a struct that says what is wanted.
fn scatter<T>(p: &mut Program<'_, '_>, made: &mut T) -> Result<()> {
    let n = size_of::<T>();
    for _ in 0..(p.byte()? % 16).saturating_sub(13) {
        let at = usize::from(p.byte()?) % n;
        let byte = p.byte()?;
        // SAFETY: within the struct, whose fields may have any bits.
        unsafe { (&raw mut *made).cast::<u8>().add(at).write(byte) };
    }
    Ok(())
}

pub fn seeds() -> Vec<Vec<u8>> {
    (0..24u64)
        .map(|i| {
            let mut seed = noise(i, 160);
            // Handles that live, and a session early on.
            seed.iter_mut().for_each(|byte| *byte = if *byte >= 248 { *byte / 3 } else { *byte });
            seed[0] = (i % 8) as u8;
            seed[1] = 96;
            seed[2] = 0;
            seed
        })
        .collect()
}
