//! Calls that take a model, a sampler or a decoder.

use std::ffi::{c_char, c_void};
use std::mem::zeroed;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use arbitrary::Result;
use tern::ffi::*;

use super::{Program, call, read, scatter};
use crate::support::tiny::Tiny;

/// Models that calls are about: one plain, one with windows.
pub fn files() -> &'static [Vec<u8>] {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let tiny = |(arch, window)| {
            let sizes = Tiny { n_embd: 32, n_layer: 2, n_head: 2, n_head_kv: 1, ..Tiny::new(arch) };
            Tiny { head_dim: 16, n_ff: 32, window, n_ctx_train: 100, ..sizes }.gguf()
        };
        [("llama", 0), ("gemma3", 10), ("qwen2", 0)].map(tiny).into()
    })
}

/// Where they also lie as files.
fn paths() -> [&'static std::ffi::CStr; 4] {
    [c"", c"/proc/self/cmdline", c"/nowhere/at all", c"/dev/null"]
}

impl Program<'_, '_> {
    pub fn load(&mut self, how: u8) -> Result<()> {
        if self.models.len() > 3 {
            return Ok(());
        }
        let files = files();
        let file = &files[usize::from(how) % files.len()];
        // SAFETY: all zeros is the default.
        let mut params: tern_model_params = unsafe { zeroed() };
        scatter(self, &mut params)?;
        params.struct_size = self.size::<tern_model_params>()?;
        (params.progress, params.user_data) = (None, null_mut());
        params.lock_memory = params.lock_memory.min(1); // what must be locked may not be here
        let params = if how & 64 != 0 { null() } else { &raw const params };
        let mut model = null_mut();
        let n = match how {
            128.. => file.len() * usize::from(how - 128) / 128,
            _ => file.len(),
        };
        // SAFETY: a buffer of that many bytes, and what the header wants besides.
        if call(|| unsafe { tern_model_load_memory(file.as_ptr().cast(), n, params, &mut model) }) {
            self.models.push(model);
        }
        Ok(())
    }

    pub fn call_model(&mut self, op: u8) -> Result<()> {
        match op % 18 {
            0 => {
                let how = self.byte()?;
                self.load(how)?;
            }
            1 => tern_model_free(self.model()?),
            2 => self.tokenize()?,
            3 => self.detokenize()?,
            4 => self.pieces()?,
            5 => self.describe()?,
            6 => self.metadata()?,
            7 => self.chat()?,
            8 => {
                let (path, mut model) = (self.string(&paths())?, null_mut());
                // SAFETY: a text that ends in NUL.
                if call(|| unsafe { tern_model_load(path.as_ptr(), null(), &mut model) }) {
                    self.models.push(model);
                }
            }
            9 => {
                let (fd, offset, length) = (self.small()? as i32, self.small()?, self.small()?);
                // Not one of this process's own.
                let fd = if fd < 0 { fd } else { fd.saturating_add(1000) };
                let mut model = null_mut();
                let (offset, length) = (offset.into(), length.into());
                // SAFETY: any number may be said.
                call(|| unsafe { tern_model_load_fd(fd, offset, length, null(), &mut model) });
            }
            10 => self.new_sampler()?,
            11 => tern_sampler_free(self.sampler()?),
            12 => {
                let (sampler, token) = (self.sampler()?, self.small()? as tern_token);
                // SAFETY: any handle may be given.
                call(|| unsafe { tern_sampler_accept(sampler, token) });
            }
            13 => {
                let sampler = self.sampler()?;
                let (mut list, mut n) = (null(), 0);
                // SAFETY: as above.
                call(|| unsafe { tern_sampler_reset(sampler) });
                // SAFETY: as above.
                if call(|| unsafe { tern_sampler_logprobs(sampler, &mut list, &mut n) }) {
                    read(list.cast::<u64>(), n);
                }
            }
            14 => {
                let (model, mut decoder) = (self.model()?, null_mut());
                // SAFETY: any handle may be given.
                let is_made = call(|| unsafe { tern_decoder_new(model, &mut decoder) });
                if is_made {
                    self.decoders.push(decoder);
                }
            }
            15 => tern_decoder_free(self.decoder()?),
            16 => self.decode()?,
            _ => {
                let index = self.small()?;
                // SAFETY: all zeros but its size.
                let mut info: tern_device_info = unsafe { zeroed() };
                info.struct_size = self.size::<tern_device_info>()?;
                // SAFETY: a struct of that size.
                call(|| unsafe { tern_device_describe(index, &mut info) });
                let _ = (tern_status_name(index as i32), tern_device_count(), tern_abi_version());
            }
        }
        Ok(())
    }

    fn tokenize(&mut self) -> Result<()> {
        let (model, flags, text) = (self.model()?, self.small()? % 9, self.bytes(200)?);
        let mut tokens = vec![0; usize::from(self.byte()?)];
        let (mut n, capacity) = (usize::MAX, tokens.len());
        let (from, to) = (text.as_ptr().cast(), tokens.as_mut_ptr());
        // SAFETY: buffers of these sizes.
        let done = call(|| unsafe {
            tern_model_tokenize(model, from, text.len(), flags, to, capacity, &mut n)
        });
        assert!(!done || n <= capacity);
        Ok(())
    }

    fn detokenize(&mut self) -> Result<()> {
        let (model, tokens) = (self.model()?, self.tokens()?);
        let flags = u32::from(self.byte()? / 250);
        let mut text = vec![0 as c_char; usize::from(self.byte()?)];
        let (mut n, capacity) = (usize::MAX, text.len());
        let (from, to) = (tokens.as_ptr(), text.as_mut_ptr());
        // SAFETY: buffers of these sizes.
        let done = call(|| unsafe {
            tern_model_detokenize(model, from, tokens.len(), flags, to, capacity, &mut n)
        });
        assert!(!done || n <= capacity);
        Ok(())
    }

    fn pieces(&mut self) -> Result<()> {
        let (model, token) = (self.model()?, self.small()? as tern_token);
        let (mut piece, mut n) = (null(), 0);
        // SAFETY: any handle may be given.
        if call(|| unsafe { tern_model_token_piece(model, token, &mut piece, &mut n) }) {
            read(piece, n);
        }
        // SAFETY: as above.
        if call(|| unsafe { tern_model_chat_template(model, &mut piece, &mut n) }) {
            read(piece, n);
        }
        tern_model_token_is_eog(model, token);
        Ok(())
    }

    fn describe(&mut self) -> Result<()> {
        let model = self.model()?;
        // SAFETY: all zeros but its size.
        let mut info: tern_model_info = unsafe { zeroed() };
        info.struct_size = self.size::<tern_model_info>()?;
        // SAFETY: a struct of that size.
        call(|| unsafe { tern_model_describe(model, &mut info) });
        Ok(())
    }

    fn metadata(&mut self) -> Result<()> {
        let (model, index) = (self.model()?, self.small()?);
        let key =
            self.string(&[c"general.name", c"llama.block_count", c"tokenizer.ggml.tokens", c""])?;
        let (mut name, mut value, mut n) = (null(), null(), 0);
        // SAFETY: a text that ends in NUL.
        if call(|| unsafe { tern_model_metadata(model, key.as_ptr(), &mut value, &mut n) }) {
            read(value, n);
        }
        // SAFETY: any handle and any number may be given.
        let done =
            call(|| unsafe { tern_model_metadata_at(model, index, &mut name, &mut value, &mut n) });
        if done {
            read(value, n);
        }
        Ok(())
    }

    fn chat(&mut self) -> Result<()> {
        let model = self.model()?;
        let role = self.string(&[c"system", c"user", c"assistant", c"tool"])?;
        let contents = [self.bytes(60)?, self.bytes(60)?];
        let messages: Vec<_> = contents
            .iter()
            .map(|content| tern_chat_message {
                role: role.as_ptr(),
                content: content.as_ptr().cast(),
                content_len: content.len(),
            })
            .collect();
        let (n, add) = (usize::from(self.byte()? % 3), u32::from(self.byte()? / 100));
        let mut text = vec![0 as c_char; usize::from(self.byte()?) * 2];
        let (mut len, capacity) = (usize::MAX, text.len());
        let (from, to) = (messages.as_ptr(), text.as_mut_ptr());
        // SAFETY: buffers of these sizes, and texts that end in NUL.
        let done =
            call(|| unsafe { tern_model_chat_format(model, from, n, add, to, capacity, &mut len) });
        assert!(!done || len <= capacity);
        Ok(())
    }

    fn new_sampler(&mut self) -> Result<()> {
        let mut bias = Vec::new();
        for _ in 0..self.byte()? % 4 {
            bias.push(tern_logit_bias { token: self.small()? as tern_token, bias: self.float()? });
        }
        // SAFETY: all zeros is the default.
        let mut params: tern_sampler_params = unsafe { zeroed() };
        params.top_k = self.small()?;
        params.temperature = self.float()?;
        params.top_p = self.float()?;
        params.min_p = self.float()?;
        params.n_logprobs = self.small()? % 80;
        scatter(self, &mut params)?;
        params.penalty_last_n %= 1 << 21;
        (params.logit_bias, params.n_logit_bias) = (bias.as_ptr(), bias.len());
        params.struct_size = self.size::<tern_sampler_params>()?;
        let mut sampler = null_mut();
        let params = if self.byte()? < 32 { null() } else { &raw const params };
        // SAFETY: a struct of that size, and a list of that length.
        let is_made = call(|| unsafe { tern_sampler_new(params, &mut sampler) });
        if is_made {
            self.samplers.push(sampler);
        }
        Ok(())
    }

    fn decode(&mut self) -> Result<()> {
        let (decoder, tokens) = (self.decoder()?, self.tokens()?);
        let (mut text, mut n) = (null(), 0);
        for token in tokens {
            // SAFETY: any handle and any token may be given.
            if call(|| unsafe { tern_decoder_push(decoder, token, &mut text, &mut n) }) {
                read(text, n);
            }
        }
        // SAFETY: as above.
        if call(|| unsafe { tern_decoder_flush(decoder, &mut text, &mut n) }) {
            read(text, n);
        }
        // SAFETY: as above.
        call(|| unsafe { tern_decoder_reset(decoder) });
        let _: *const c_void = text.cast();
        Ok(())
    }
}
