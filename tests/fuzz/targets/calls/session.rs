//! Calls that take a session.

use std::mem::zeroed;
use std::ptr::{null, null_mut};

use arbitrary::Result;
use tern::ffi::*;

use super::{Program, call, read, scatter};

impl Program<'_, '_> {
    pub fn call_session(&mut self, op: u8) -> Result<()> {
        match op % 24 {
            0 => self.new_session()?,
            1 => tern_session_free(self.session()?),
            2..=5 => {
                let (session, tokens) = (self.session()?, self.tokens()?);
                // SAFETY: a list of that length.
                call(|| unsafe { tern_session_eval(session, tokens.as_ptr(), tokens.len()) });
            }
            6 => self.eval_with()?,
            7 => self.logits()?,
            8 => {
                let (sampler, session, mut token) = (self.sampler()?, self.session()?, 0);
                // SAFETY: any handles may be given.
                call(|| unsafe { tern_sampler_sample(sampler, session, &mut token) });
            }
            9 => self.generate()?,
            10 => self.evict()?,
            11 => {
                let (session, from, to) = (self.session()?, self.small()?, self.small()?);
                let mut n = 0;
                // SAFETY: any handle and any numbers may be given.
                call(|| unsafe { tern_session_kv_evict_range(session, from, to, &mut n) });
            }
            12 => {
                let (session, pos) = (self.session()?, self.small()?);
                // SAFETY: as above.
                call(|| unsafe { tern_session_kv_truncate(session, pos) });
            }
            13 => {
                let (session, mut fork) = (self.session()?, null_mut());
                // SAFETY: as above.
                if self.sessions.len() < 6
                    && call(|| unsafe { tern_session_fork(session, &mut fork) })
                {
                    self.sessions.push(fork);
                }
            }
            14 => {
                let session = self.session()?;
                // SAFETY: all zeros but its size.
                let mut info: tern_session_info = unsafe { zeroed() };
                info.struct_size = self.size::<tern_session_info>()?;
                // SAFETY: a struct of that size.
                call(|| unsafe { tern_session_describe(session, &mut info) });
            }
            15 => {
                let (session, one, many) = (self.session()?, self.byte()?, self.byte()?);
                let n = |byte: u8| if byte < 250 { u32::from(byte % 3) } else { u32::from(byte) };
                // SAFETY: any numbers may be given.
                call(|| unsafe { tern_session_set_threads(session, n(one), n(many)) });
            }
            16 => tern_session_abort(self.session()?),
            17 => {
                let (session, n) = (self.session()?, self.small()?);
                tern_session_kv_set_budget(session, n);
            }
            18 => {
                let (session, op) = (self.session()?, self.small()? % 9);
                // SAFETY: any number may be given.
                call(|| unsafe { tern_session_kv_can(session, op) });
            }
            19 => self.rebuild()?,
            20 | 21 => self.segments()?,
            22 => self.save()?,
            _ => self.restore()?,
        }
        Ok(())
    }

    fn new_session(&mut self) -> Result<()> {
        if self.sessions.len() > 5 {
            return Ok(());
        }
        let model = self.model()?;
        // SAFETY: all zeros is the default.
        let mut params: tern_session_params = unsafe { zeroed() };
        params.n_ctx = self.small()?;
        params.n_logits = u32::from(self.byte()? % 8);
        params.kv_dtype = [0, 1, 2, 5, 64, 65, 66, 99][usize::from(self.byte()? % 8)];
        params.when_full = u32::from(self.byte()? / 100);
        params.kv_policy = u32::from(self.byte()? % 16);
        params.kv_budget = u32::from(self.byte()? / 3);
        params.kv_share = u32::from(self.byte()? / 120);
        scatter(self, &mut params)?;
        params.lock_memory = params.lock_memory.min(1);
        // More cells than are refused at once are the memory that a program asks for.
        if params.n_ctx <= 1 << 30 {
            params.n_ctx %= 4096;
        }
        // Threads are the subject of other tests, and take long to start.
        (params.n_threads, params.n_threads_prefill) = (1, 1);
        params.struct_size = self.size::<tern_session_params>()?.max(24);
        let mut session = null_mut();
        // SAFETY: a struct of that size.
        let is_made = call(|| unsafe { tern_session_new(model, &params, &mut session) });
        if is_made {
            self.sessions.push(session);
        }
        Ok(())
    }

    fn eval_with(&mut self) -> Result<()> {
        let (session, tokens) = (self.session()?, self.tokens()?);
        let mut positions = Vec::new();
        for _ in 0..self.byte()? % 5 {
            positions.push(self.small()?);
        }
        // SAFETY: all zeros is the default.
        let mut params: tern_eval_params = unsafe { zeroed() };
        params.logits = u32::from(self.byte()? % 5);
        (params.positions, params.n_positions) = (positions.as_ptr(), positions.len());
        params.deadline_ns = [0, 0, 0, 1, u64::MAX][usize::from(self.byte()? % 5)];
        params.struct_size = self.size::<tern_eval_params>()?;
        // SAFETY: lists of these lengths, and a struct of that size.
        call(|| unsafe { tern_session_eval_with(session, tokens.as_ptr(), tokens.len(), &params) });
        Ok(())
    }

    fn logits(&mut self) -> Result<()> {
        let (session, index) = (self.session()?, self.small()? as usize);
        let (mut row, mut n) = (null(), 0);
        // SAFETY: any handle may be given.
        if call(|| unsafe { tern_session_logits(session, &mut row, &mut n) }) {
            read(row, n);
        }
        // SAFETY: any number may be given.
        if call(|| unsafe { tern_session_logits_at(session, index, &mut row, &mut n) }) {
            read(row, n);
        }
        Ok(())
    }

    fn generate(&mut self) -> Result<()> {
        let (session, sampler) = (self.session()?, self.sampler()?);
        // SAFETY: all zeros is the default.
        let mut params: tern_generate_params = unsafe { zeroed() };
        params.n_draft = u32::from(self.byte()? % 8);
        params.struct_size = self.size::<tern_generate_params>()?;
        let (mut tokens, mut n) = ([0; 8], usize::MAX);
        let capacity = usize::from(self.byte()? % 9);
        let to = tokens.as_mut_ptr();
        // SAFETY: a buffer of at least that size.
        let done = call(|| unsafe {
            tern_session_generate(session, sampler, &params, to, capacity, &mut n)
        });
        assert!(!done || n <= capacity);
        Ok(())
    }

    fn evict(&mut self) -> Result<()> {
        let session = self.session()?;
        // SAFETY: all zeros is the default.
        let mut params: tern_kv_evict_params = unsafe { zeroed() };
        params.policy = u32::from(self.byte()? % 16);
        (params.n_sink, params.n_keep) = (self.small()?, self.small()?);
        params.struct_size = self.size::<tern_kv_evict_params>()?;
        // SAFETY: all zeros but its size.
        let mut info: tern_kv_plan_info = unsafe { zeroed() };
        info.struct_size = self.size::<tern_kv_plan_info>()?;
        let mut positions = vec![0; usize::from(self.byte()?)];
        let (to, capacity, mut n) = (positions.as_mut_ptr(), positions.len(), usize::MAX);
        // SAFETY: structs and a buffer of these sizes.
        let done = call(|| unsafe {
            tern_session_kv_evict_plan(session, &params, &mut info, to, capacity, &mut n)
        });
        assert!(!done || n <= capacity || capacity == 0, "{n} positions for {capacity}");
        // SAFETY: a struct of that size.
        call(|| unsafe { tern_session_kv_evict(session, &params, &mut n) });
        Ok(())
    }

    fn rebuild(&mut self) -> Result<()> {
        let session = self.session()?;
        // SAFETY: all zeros is the default.
        let mut params: tern_kv_rebuild_params = unsafe { zeroed() };
        params.kv_budget = self.small()?;
        params.deadline_ns = u64::from(self.byte()? / 200);
        params.struct_size = self.size::<tern_kv_rebuild_params>()?;
        // SAFETY: a struct of that size.
        call(|| unsafe { tern_session_kv_rebuild(session, &params) });
        Ok(())
    }

    fn segments(&mut self) -> Result<()> {
        let (session, index) = (self.session()?, u32::from(self.byte()?));
        let name = self.string(&[c"a", c"b", c"fact", c""])?;
        // SAFETY: all zeros is the default.
        let mut segment: tern_kv_segment = unsafe { zeroed() };
        (segment.from_pos, segment.to_pos) = (self.small()?, self.small()?);
        (segment.ttl, segment.flags) = (self.small()?, u32::from(self.byte()? % 3));
        segment.priority = (self.small()? as i32).wrapping_sub(100);
        segment.struct_size = self.size::<tern_kv_segment>()?;
        // SAFETY: a text that ends in NUL, and a struct of that size.
        call(|| unsafe { tern_session_kv_segment_set(session, name.as_ptr(), &segment) });
        // SAFETY: as above.
        call(|| unsafe { tern_session_kv_segment_get(session, name.as_ptr(), &mut segment) });
        let (mut room, mut size) = ([0; 40], 0);
        let capacity = usize::from(self.byte()? % 41);
        // SAFETY: a buffer of at least that size.
        call(|| unsafe {
            let to = room.as_mut_ptr();
            tern_session_kv_segment_at(session, index % 4, to, capacity, &mut size, &mut segment)
        });
        if index > 128 {
            // SAFETY: as above.
            call(|| unsafe { tern_session_kv_segment_remove(session, name.as_ptr()) });
        }
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        let (session, sampler) = (self.session()?, self.sampler()?);
        let sampler = if self.byte()? < 128 { null_mut() } else { sampler };
        let mut size = 0;
        // SAFETY: no buffer, of no bytes.
        call(|| unsafe { tern_session_write(session, sampler, null_mut(), 0, &mut size) });
        let mut bytes = vec![0u8; size.min(8 << 20)];
        let (to, capacity) = (bytes.as_mut_ptr().cast(), bytes.len());
        // SAFETY: a buffer of that size.
        if call(|| unsafe { tern_session_write(session, sampler, to, capacity, &mut size) }) {
            bytes.truncate(size);
            self.snapshot = bytes;
        }
        Ok(())
    }

    fn restore(&mut self) -> Result<()> {
        let (session, sampler) = (self.session()?, self.sampler()?);
        let sampler = if self.byte()? < 128 { null_mut() } else { sampler };
        let mut bytes = std::mem::take(&mut self.snapshot);
        if !bytes.is_empty() && self.byte()? > 200 {
            let at = self.small()? as usize % bytes.len();
            bytes[at] ^= 1;
        }
        let from = bytes.as_ptr().cast();
        // SAFETY: a buffer of that size.
        call(|| unsafe { tern_session_read(session, sampler, from, bytes.len()) });
        let path = self.string(&[c"/nowhere/at all", c"/proc/self/cmdline", c"/dev/null", c""])?;
        // SAFETY: a text that ends in NUL.
        call(|| unsafe { tern_session_restore(session, sampler, path.as_ptr()) });
        // SAFETY: as above.
        call(|| unsafe { tern_session_prefetch(path.as_ptr()) });
        self.snapshot = bytes;
        Ok(())
    }
}
