//! Where the fields of a good file stand, found without the parser that is tested; and files put
//! together again from its pieces.

use std::ops::Range;

/// A number in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) at: usize,
    pub(crate) width: usize,
    pub(crate) role: Role,
}

/// What a field is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Role {
    /// Says how to read what comes after it: a length, a number of elements, a kind.
    Shape,
    Integer,
    Float,
}
use Role::{Float, Integer, Shape};

/// An entry of the metadata or a row of the table of tensors, with the places of its fields in it.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fields: Vec<Field>,
    /// Bytes of its key or name, the length included.
    pub(crate) key_len: usize,
}

/// A file in pieces.
#[derive(Clone, Debug)]
pub(crate) struct Pieces {
    pub(crate) version: u32,
    pub(crate) entries: Vec<Piece>,
    pub(crate) rows: Vec<Piece>,
    pub(crate) data: Vec<u8>,
}

/// Bytes before the first entry: magic, version, two counts.
const HEAD: usize = 24;

/// What the tests' own writer aligns data to.
pub(crate) const ALIGNMENT: usize = 32;

/// Reads one piece, and notes its fields.
struct Reader<'a> {
    file: &'a [u8],
    start: usize,
    at: usize,
    fields: Vec<Field>,
}

impl Reader<'_> {
    fn number(&mut self, width: usize, role: Role) -> u64 {
        self.fields.push(Field { at: self.at - self.start, width, role });
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&self.file[self.at..self.at + width]);
        self.at += width;
        u64::from_le_bytes(bytes)
    }

    fn text(&mut self) {
        self.at += self.number(8, Shape) as usize;
    }

    fn value(&mut self, kind: u64) {
        match kind {
            0 | 1 | 7 => _ = self.number(1, Integer),
            2 | 3 => _ = self.number(2, Integer),
            4 | 5 => _ = self.number(4, Integer),
            6 => _ = self.number(4, Float),
            10 | 11 => _ = self.number(8, Integer),
            12 => _ = self.number(8, Float),
            8 => self.text(),
            9 => {
                let kind = self.number(4, Shape);
                for _ in 0..self.number(8, Shape) {
                    self.value(kind);
                }
            }
            kind => panic!("kind {kind} in a good file"),
        }
    }

    /// What was read since the last piece.
    fn piece(&mut self, key_len: usize) -> Piece {
        let bytes = self.file[self.start..self.at].to_vec();
        self.start = self.at;
        Piece { bytes, fields: std::mem::take(&mut self.fields), key_len }
    }
}

impl Pieces {
    /// Takes a good file apart.
    pub(crate) fn of(file: &[u8]) -> Pieces {
        let mut reader = Reader { file, start: 4, at: 4, fields: Vec::new() };
        let version = reader.number(4, Shape) as u32;
        let (n_tensors, n_entries) = (reader.number(8, Shape), reader.number(8, Shape));
        reader.piece(0);
        let entry = |reader: &mut Reader<'_>| {
            reader.text();
            let key_len = reader.at - reader.start;
            let kind = reader.number(4, Shape);
            reader.value(kind);
            reader.piece(key_len)
        };
        let entries = (0..n_entries).map(|_| entry(&mut reader)).collect();
        let row = |reader: &mut Reader<'_>| {
            reader.text();
            let key_len = reader.at - reader.start;
            for _ in 0..reader.number(4, Shape) {
                reader.number(8, Integer);
            }
            reader.number(4, Integer);
            reader.number(8, Integer);
            reader.piece(key_len)
        };
        let rows = (0..n_tensors).map(|_| row(&mut reader)).collect();
        let data = file[reader.at.next_multiple_of(ALIGNMENT)..].to_vec();
        Pieces { version, entries, rows, data }
    }

    /// The file, with counts that are true.
    pub(crate) fn file(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.rows.len() as u64).to_le_bytes());
        file.extend((self.entries.len() as u64).to_le_bytes());
        for piece in self.entries.iter().chain(&self.rows) {
            file.extend(&piece.bytes);
        }
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(&self.data);
        file
    }

    /// Bytes before the data, without padding.
    pub(crate) fn header_len(&self) -> usize {
        let pieces = self.entries.iter().chain(&self.rows);
        HEAD + pieces.map(|piece| piece.bytes.len()).sum::<usize>()
    }

    /// Every field, by its place in the file.
    pub(crate) fn fields(&self) -> Vec<Field> {
        let head = [(4, 4), (8, 8), (16, 8)];
        let mut fields: Vec<Field> =
            head.iter().map(|&(at, width)| Field { at, width, role: Shape }).collect();
        let mut start = HEAD;
        for piece in self.entries.iter().chain(&self.rows) {
            fields.extend(piece.fields.iter().map(|f| Field { at: f.at + start, ..*f }));
            start += piece.bytes.len();
        }
        fields
    }
}

impl Piece {
    /// This entry's key with the value of another.
    pub(crate) fn with_value_of(&self, other: &Piece) -> Piece {
        let value: Range<usize> = other.key_len..other.bytes.len();
        let mut bytes = self.bytes[..self.key_len].to_vec();
        bytes.extend(&other.bytes[value]);
        let key = self.fields.iter().filter(|f| f.at < self.key_len).copied();
        let moved = |f: &Field| Field { at: f.at - other.key_len + self.key_len, ..*f };
        let value = other.fields.iter().filter(|f| f.at >= other.key_len).map(moved);
        Piece { bytes, fields: key.chain(value).collect(), key_len: self.key_len }
    }
}

/// The numbers at which things break, for a field that holds `old` in a file of `len` bytes.
pub(crate) fn boundaries(field: Field, old: u64, len: usize) -> [u64; 14] {
    if field.role == Float {
        let numbers = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            f64::NAN,
            -f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::from(f32::MAX),
            f64::from(f32::from_bits(1)),
            1e30,
            1e-30,
            1e9,
            2.0,
        ];
        let bits =
            |x: f64| if field.width == 4 { (x as f32).to_bits().into() } else { x.to_bits() };
        return numbers.map(bits);
    }
    let bits = 8 * field.width as u32;
    let top = 1u64 << (bits - 1);
    let max = top | (top - 1);
    let swapped = old.swap_bytes() >> (64 - bits);
    [
        0,
        1,
        2,
        3,
        old.wrapping_sub(1),
        old.wrapping_add(1),
        old.wrapping_mul(2),
        max,
        max - 1,
        top,
        top - 1,
        top + 1,
        swapped,
        len as u64,
    ]
}

/// What stands in a field.
pub(crate) fn read(bytes: &[u8], field: Field) -> u64 {
    let mut number = [0; 8];
    number[..field.width].copy_from_slice(&bytes[field.at..field.at + field.width]);
    u64::from_le_bytes(number)
}

/// Puts a number into a field.
pub(crate) fn write(bytes: &mut [u8], field: Field, number: u64) {
    bytes[field.at..field.at + field.width].copy_from_slice(&number.to_le_bytes()[..field.width]);
}
