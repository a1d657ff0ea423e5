//! AMX where the CPU lacks it: its instructions end in SIGILL, whose handler does what they should.
//!
//! Written after Intel's Software Developer's Manual, volumes 2 and 3, for the instructions that
//! tern's kernels use, and stricter than a CPU where that would hide a mistake. It sees the
//! instructions themselves, as they were assembled: so the kernels run as they are.

#![allow(unsafe_code, reason = "a signal handler that does what instructions would")]

use std::cell::UnsafeCell;
use std::sync::Once;

use tern::base::amx::assume_emulated;
use tern::base::cpu::Isa;

/// Lets this process use AMX: the CPU's own, or this emulation. AVX-512 must be the CPU's.
pub(super) fn emulate() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if Isa::up_to(Isa::Avx512Vnni).last() != Some(&Isa::Avx512Vnni) {
            eprintln!("SKIPPED: the kernels for AMX, which need AVX-512 with VNNI");
        } else if has_amx() {
            eprintln!("AMX is this CPU's own");
        } else {
            // SAFETY: the handler touches what the interrupted instruction would, and the state of its
            // own thread; from here on the instructions work.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
                assume_emulated();
            }
            eprintln!("AMX is emulated");
        }
    });
}

fn has_amx() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "amx_int8")
}

/// A tile: rows of bytes, and how many of both it has.
#[derive(Clone, Copy)]
struct Tile {
    n_rows: usize,
    row_bytes: usize,
    rows: [[u8; 64]; 16],
}

const NO_TILE: Tile = Tile { n_rows: 0, row_bytes: 0, rows: [[0; 64]; 16] };

struct Tiles(UnsafeCell<[Tile; 8]>);

thread_local! {
    static TILES: Tiles = const { Tiles(UnsafeCell::new([NO_TILE; 8])) };
}

/// Where the general registers 0 to 15 of an instruction's encoding lie in a context.
const REGISTERS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn handle(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO the context of its thread.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let registers = &mut context.uc_mcontext.gregs;
    let at = registers[libc::REG_RIP as usize] as *const u8;
    // SAFETY: 15 bytes are the longest instruction. Near the end of a mapping fewer would be there;
    // the code of the tests is followed by more of it.
    let code = unsafe { std::slice::from_raw_parts(at, 15) };
    let done = TILES.with(|tiles| {
        // SAFETY: this thread's own, and no instruction is emulated within another.
        let tiles = unsafe { &mut *tiles.0.get() };
        // SAFETY: the memory is what the program itself named.
        unsafe { execute(code, registers, tiles) }
    });
    match done {
        Ok(length) => registers[libc::REG_RIP as usize] += length as i64,
        Err(why) => {
            let text = [b"emulated AMX: ", why.as_bytes(), b"\n"].concat();
            // SAFETY: writes and ends the process, as the CPU would.
            unsafe {
                libc::write(2, text.as_ptr().cast(), text.len());
                libc::_exit(132);
            }
        }
    }
}

/// Does an instruction; returns its length.
unsafe fn execute(
    code: &[u8],
    registers: &[i64; 23],
    tiles: &mut [Tile; 8],
) -> Result<usize, &'static str> {
    // VEX in three bytes: C4, R X B and the map, W vvvv L pp; R, X, B and vvvv are inverted.
    let [0xC4, second, third, opcode, modrm, ..] = *code else { return Err("no VEX prefix") };
    if second & 0x1F != 2 || third & 0x84 != 0 {
        return Err("not an instruction of AMX");
    }
    let high = |bit: u8| usize::from(second >> bit & 1 ^ 1) * 8;
    let (vvvv, prefix) = (usize::from(!third >> 3 & 15), third & 3);
    let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    let register = |i: usize| registers[REGISTERS[i] as usize] as usize;
    const NONE: u8 = 0;
    const P66: u8 = 1;
    const PF3: u8 = 2;
    const PF2: u8 = 3;
    match (opcode, prefix, mode) {
        (0x49, NONE, 3) if modrm == 0xC0 => {
            *tiles = [NO_TILE; 8];
            Ok(5)
        }
        (0x49, PF2, 3) => {
            let tile = &mut tiles[reg];
            if tile.n_rows == 0 {
                return Err("tilezero of a tile without a shape");
            }
            tile.rows = [[0; 64]; 16];
            Ok(5)
        }
        (0x49, NONE, _) if reg == 0 => {
            let (address, _, length) = memory(code, mode, rm, high, register)?;
            // SAFETY: the instruction reads 64 bytes there.
            let shape = unsafe { &*(address as *const [u8; 64]) };
            if shape[0] != 1 || shape[1] != 0 || shape[2..16].iter().any(|&b| b != 0) {
                return Err("ldtilecfg: palette, first row or reserved bytes");
            }
            for (i, tile) in tiles.iter_mut().enumerate() {
                let row_bytes = u16::from_le_bytes([shape[16 + 2 * i], shape[17 + 2 * i]]).into();
                let n_rows = shape[48 + i].into();
                if row_bytes > 64 || n_rows > 16 || (n_rows == 0) != (row_bytes == 0) {
                    return Err("ldtilecfg: a shape");
                }
                *tile = Tile { n_rows, row_bytes, ..NO_TILE };
            }
            if shape[32..48].iter().chain(&shape[56..]).any(|&b| b != 0) {
                return Err("ldtilecfg: more than eight tiles");
            }
            Ok(length)
        }
        (0x4B, PF2 | PF3, 0..=2) if rm == 4 => {
            let (address, stride, length) = memory(code, mode, rm, high, register)?;
            let tile = &mut tiles[reg];
            if tile.n_rows == 0 {
                return Err("a tile without a shape is loaded or stored");
            }
            let n = tile.row_bytes;
            for (i, row) in tile.rows.iter_mut().take(tile.n_rows).enumerate() {
                let there = address.wrapping_add(stride.wrapping_mul(i)) as *mut u8;
                // SAFETY: the instruction reads or writes so many bytes there.
                unsafe {
                    match prefix {
                        PF2 => std::ptr::copy_nonoverlapping(there, row.as_mut_ptr(), n),
                        _ => std::ptr::copy_nonoverlapping(row.as_ptr(), there, n),
                    }
                }
            }
            Ok(length)
        }
        (0x5E, PF3 | P66, 3) => {
            // F3: signed by unsigned; 66: unsigned by signed.
            let (a, b) = (tiles[rm], tiles[vvvv]);
            let sums = &mut tiles[reg];
            if reg == rm || reg == vvvv || rm == vvvv {
                return Err("a product of a tile with itself");
            }
            let fits = a.n_rows == sums.n_rows
                && b.row_bytes == sums.row_bytes
                && a.row_bytes == 4 * b.n_rows
                && sums.n_rows > 0;
            if !fits {
                return Err("a product of tiles that do not fit");
            }
            let byte = |x: u8, signed: bool| if signed { i32::from(x as i8) } else { i32::from(x) };
            for (row, sums) in a.rows.iter().zip(&mut sums.rows).take(a.n_rows) {
                let sums = sums.as_chunks_mut::<4>().0;
                for (col, sum) in sums.iter_mut().take(b.row_bytes / 4).enumerate() {
                    let mut total = i32::from_le_bytes(*sum);
                    for (k, &x) in row.iter().enumerate().take(a.row_bytes) {
                        let y = b.rows[k / 4][4 * col + k % 4];
                        let product = byte(x, prefix == PF3) * byte(y, prefix == P66);
                        total = total.wrapping_add(product);
                    }
                    *sum = total.to_le_bytes();
                }
            }
            Ok(5)
        }
        _ => Err("an instruction that is not emulated"),
    }
}

/// The address that an instruction names, without its index; the index, scaled; and the length of
/// the instruction.
fn memory(
    code: &[u8],
    mode: u8,
    rm: usize,
    high: impl Fn(u8) -> usize,
    register: impl Fn(usize) -> usize,
) -> Result<(usize, usize, usize), &'static str> {
    let (base, index, mut length) = match rm {
        4 => {
            let sib = code[5];
            let index = usize::from(sib >> 3 & 7) + high(6);
            let index = if index == 4 { 0 } else { register(index) << (sib >> 6) };
            (usize::from(sib & 7), index, 6)
        }
        _ => (rm, 0, 5),
    };
    if mode == 0 && base == 5 {
        return Err("an address without a base");
    }
    let displacement = match mode {
        0 => 0,
        1 => i64::from(code[length] as i8),
        _ => i64::from(i32::from_le_bytes(code[length..length + 4].try_into().expect("four"))),
    };
    length += [0, 1, 4][usize::from(mode)];
    let base = register(base + high(5));
    Ok((base.wrapping_add(displacement as usize), index, length))
}
