//! `tern pack`: writes a model's file again, as the kernels read it.

use std::path::PathBuf;

use serde_json::json;
use tern::engine::Model;

use super::args::{Arg, Args, Failure, Result, unexpected};
use super::output::{self, Progress, bytes};

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let (mut files, mut as_json) = (Vec::<PathBuf>::new(), false);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Option(option) if option == "--json" => as_json = true,
            Arg::Operand(file) if files.len() < 2 => files.push(file.into()),
            _ => return unexpected(&arg),
        }
    }
    let [from, to] = files.as_slice() else {
        return Err(Failure::Usage("expected two files: the model, and the one to write".into()));
    };
    let mut progress = Progress::new();
    let n = Model::pack(from, to, &mut |done, total| {
        let percent = (done as f64 / total.max(1) as f64 * 100.0) as u32;
        progress.show(format!("packing {percent:3} % of {}", bytes(total)));
        true
    })?;
    drop(progress);
    if as_json {
        return output::print_json(&json!({ "bytes": n }));
    }
    output::print(&format!("{}: {}\n", to.display(), bytes(n)))
}
