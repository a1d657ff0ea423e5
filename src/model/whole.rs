//! Whether a file is a model, and all of it. Adapters, importance matrices and the parts of a split
//! model are GGUF files too, and name the architecture that they belong to: what they lack would
//! otherwise be told as if they were damaged.

use crate::base::error::{Result, err};
use crate::gguf::Gguf;

/// What `general.type` calls files that are no models.
const OTHERS: &[&str] = &["adapter", "imatrix", "mmproj", "clip-vision"];

/// Fails with `Unsupported` for a file that is something else, or a part of a model.
pub fn check(gguf: &Gguf) -> Result<()> {
    let meta = gguf.metadata();
    if let Some(kind) = meta.get_str("general.type")?
        && OTHERS.contains(&kind)
    {
        return Err(err!(Unsupported, "general.type: found {kind:?}, expected a model"));
    }
    if let Some((key, _)) = meta.iter().find(|(key, _)| key.starts_with("adapter.")) {
        return Err(err!(
            Unsupported,
            "{}: the file is an adapter, expected a model; merge the adapter into its model",
            key.escape_debug()
        ));
    }
    let n_parts = meta.get_u32("split.count")?.unwrap_or(1);
    if n_parts > 1 {
        return Err(err!(
            Unsupported,
            "split.count: the file is one of {n_parts} parts of a model; merge them into one file"
        ));
    }
    let lora = |name: &str| name.ends_with(".lora_a") || name.ends_with(".lora_b");
    match gguf.tensors().iter().map(|t| t.name(gguf)).find(|name| lora(name)) {
        Some(name) => Err(err!(
            Unsupported,
            "{}: belongs to a LoRA adapter; merge the adapter into its model",
            name.escape_debug()
        )),
        None => Ok(()),
    }
}
