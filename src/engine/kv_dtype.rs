//! Types of keys and values: their numbers, as the C API has them, their names, and the presets, which
//! are types of both under one number.

use crate::backend::KvType;
use crate::base::error::{Result, err};

/// A type of keys or values.
struct Named(u32, &'static str, KvType);

const TYPES: [Named; 8] = [
    Named(0, "f16", KvType::F16),
    Named(1, "f32", KvType::F32),
    Named(2, "q8_0", KvType::Q8_0),
    Named(3, "q5_0", KvType::Q5_0),
    Named(4, "q4_0", KvType::Q4_0),
    Named(5, "q4_h", KvType::Q4H),
    Named(6, "q3_h", KvType::Q3H),
    Named(7, "q5_h", KvType::Q5H),
];

/// Types of keys and of values under one name.
#[derive(Clone, Copy, Debug)]
pub struct KvPreset {
    /// Its number, in place of that of a type.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// The type of keys.
    pub k: u32,
    /// The type of values.
    pub v: u32,
}

/// All presets, the larger ones first.
pub const KV_PRESETS: [KvPreset; 3] = [
    KvPreset { number: 64, name: "balanced", k: 2, v: 5 },
    SMALL,
    KvPreset { number: 66, name: "tiny", k: 2, v: 6 },
];

const SMALL: KvPreset = KvPreset { number: 65, name: "small", k: 7, v: 5 };

/// The names of types of keys and values, by ascending number from 0 on.
pub fn kv_type_names() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|named| named.1)
}

/// The preset with this number.
pub fn kv_preset(number: u32) -> Option<&'static KvPreset> {
    KV_PRESETS.iter().find(|preset| preset.number == number)
}

/// What parameters ask for: the number for both, that for keys and that for values, 0 = the former.
pub(super) struct Asked {
    pub(super) both: u32,
    pub(super) k: u32,
    pub(super) v: u32,
}

impl Asked {
    /// The types of keys and of values. Fails with `Unsupported` where a preset has keys that the
    /// model's norm does not stand: those of a QK-norm lose far more than others below 8 bits.
    pub(super) fn resolve(&self, has_qk_norm: bool) -> Result<(KvType, KvType)> {
        let (k, v) = match kv_preset(self.both) {
            Some(preset) => (preset.k, preset.v),
            None => (self.both, self.both),
        };
        if self.both == SMALL.number && self.k == 0 && has_qk_norm {
            return Err(err!(
                Unsupported,
                "kv_dtype small: the model normalises its keys (QK-norm), which need 8 bits; expected \
                 balanced or tiny, or k_dtype beside it"
            ));
        }
        let (k, v) = (kv_type("kv_dtype", k)?, kv_type("kv_dtype", v)?);
        let or = |name: &str, own: u32, both| if own == 0 { Ok(both) } else { kv_type(name, own) };
        Ok((or("k_dtype", self.k, k)?, or("v_dtype", self.v, v)?))
    }
}

fn kv_type(name: &str, number: u32) -> Result<KvType> {
    let named = TYPES.iter().find(|named| named.0 == number);
    named.map(|named| named.2).ok_or_else(|| {
        let names: Vec<String> = TYPES.iter().map(|n| format!("{} ({})", n.0, n.1)).collect();
        let presets = KV_PRESETS.iter().filter(|_| name == "kv_dtype");
        let presets: Vec<String> =
            presets.map(|p| format!(", {} ({})", p.number, p.name)).collect();
        err!(
            InvalidArgument,
            "{name}: found {number}, expected one of {}{}",
            names.join(", "),
            presets.concat()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_as_the_header_says() {
        for (i, Named(number, ..)) in TYPES.iter().enumerate() {
            assert_eq!(i as u32, *number);
        }
        for preset in KV_PRESETS {
            for number in [preset.k, preset.v] {
                assert!(kv_type("", number).is_ok(), "{}", preset.name);
            }
            assert!(kv_type("k_dtype", preset.number).is_err(), "for both alone");
        }
    }

    #[test]
    fn types_of_their_own_go_before_a_preset() {
        let asked = |both, k, v| Asked { both, k, v }.resolve(false).ok();
        assert_eq!(asked(64, 0, 0), Some((KvType::Q8_0, KvType::Q4H)));
        assert_eq!(asked(65, 0, 0), Some((KvType::Q5H, KvType::Q4H)));
        assert_eq!(asked(66, 0, 0), Some((KvType::Q8_0, KvType::Q3H)));
        assert_eq!(asked(65, 2, 0), Some((KvType::Q8_0, KvType::Q4H)));
        assert_eq!(asked(65, 0, 1), Some((KvType::Q5H, KvType::F32)));
        assert_eq!(asked(0, 0, 6), Some((KvType::F16, KvType::Q3H)));
        assert_eq!(asked(0, 64, 0), None);
        assert_eq!(asked(63, 1, 1), None);
    }

    #[test]
    fn small_keys_are_refused_for_a_model_that_normalises_them() {
        let asked = |both, k, v| Asked { both, k, v }.resolve(true).map_err(|e| e.to_string());
        assert!(asked(65, 0, 0).unwrap_err().contains("QK-norm"));
        assert!(asked(65, 0, 2).unwrap_err().contains("k_dtype"));
        assert_eq!(asked(65, 2, 0), Ok((KvType::Q8_0, KvType::Q4H)));
        assert_eq!(asked(0, 5, 5), Ok((KvType::Q4H, KvType::Q4H)), "named");
        assert!(asked(64, 0, 0).is_ok() && asked(66, 0, 0).is_ok());
    }
}
