//! `tern manifest`: keys, signed manifests of models, and whether a model is what was signed.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use tern::engine::{
    Input, LoadMode, MANIFEST_SUFFIX, Model, ModelParams, Trust, hex, public_key, sign_model,
};
use tern::manifest::{Manifest, from_hex};

use super::args::{Arg, Args, Failure, Result, invalid, io_error, unexpected};
use super::output;

/// Runs the command.
pub(crate) fn command(args: &mut Args) -> Result<()> {
    let (mut operand, mut sign, mut keys) = (None::<PathBuf>, None::<PathBuf>, Vec::new());
    let (mut version, mut min_version, mut as_json, mut keygen) = (None, 0, false, false);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "--keygen" => keygen = true,
                "--sign" => sign = Some(args.path()?),
                "--verify" => keys.push(key(&args.path()?, "tern-public-key")?),
                "--version" => version = Some(args.number(&option, 0..=u64::MAX)?),
                "--min-version" => min_version = args.number(&option, 0..=u64::MAX)?,
                "--json" => as_json = true,
                _ => return unexpected(&Arg::Option(option)),
            },
            Arg::Operand(file) if operand.is_none() => operand = Some(file.into()),
            _ => return unexpected(&arg),
        }
    }
    let file = operand.ok_or_else(|| Failure::Usage("expected a file".into()))?;
    match (keygen, sign, keys.is_empty()) {
        (true, None, true) => make_keys(&file, as_json),
        (false, Some(secret), true) => {
            let version = version.ok_or_else(|| Failure::Usage("--sign needs --version".into()))?;
            let secret = key(&secret, "tern-secret-key")?;
            let text = sign_model(&file, version, &secret)?;
            let path = beside(&file, MANIFEST_SUFFIX);
            fs::write(&path, &text).map_err(|e| io_error(path.display(), &e))?;
            if as_json {
                let by = hex(&public_key(&secret));
                return output::print_json(
                    &json!({ "manifest": path, "version": version, "key": by }),
                );
            }
            output::print(&format!("{}\n", path.display()))
        }
        (false, None, false) => {
            verify(&file, &Trust { keys: &keys, manifest: None, min_version }, as_json)
        }
        _ => Err(Failure::Usage("expected one of --keygen, --sign and --verify".into())),
    }
}

/// Loads the model as a program would that trusts these keys.
fn verify(file: &Path, trust: &Trust<'_>, as_json: bool) -> Result<()> {
    let params = ModelParams { load_mode: Some(LoadMode::MapGuarded), ..ModelParams::default() };
    Model::load_signed(Input::Path(file), &params, Some(trust), &mut |_, _| true)?;
    let path = beside(file, MANIFEST_SUFFIX);
    let text = fs::read(&path).map_err(|e| io_error(path.display(), &e))?;
    let manifest = Manifest::parse(&text)?;
    let (version, n) = (manifest.version, manifest.parts.len());
    if as_json {
        return output::print_json(
            &json!({ "version": version, "parts": n, "bytes": manifest.bytes }),
        );
    }
    output::print(&format!("{}: as signed, version {version}, {n} parts\n", file.display()))
}

/// A new pair of keys: NAME.key, which only its owner can read, and NAME.pub.
fn make_keys(name: &Path, as_json: bool) -> Result<()> {
    let mut secret = [0; 32];
    let random = Path::new("/dev/urandom");
    fs::File::open(random)
        .and_then(|mut file| file.read_exact(&mut secret))
        .map_err(|e| io_error(random.display(), &e))?;
    let public = hex(&public_key(&secret));
    for (suffix, word, key, mode) in [
        (".key", "tern-secret-key", hex(&secret), 0o600),
        (".pub", "tern-public-key", public.clone(), 0o644),
    ] {
        let path = beside(name, suffix);
        // Never over another key.
        let new = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        new.and_then(|mut file| writeln!(file, "{word} {key}"))
            .map_err(|e| io_error(path.display(), &e))?;
    }
    match as_json {
        true => output::print_json(&json!({ "key": public })),
        false => output::print(&format!("{public}\n")),
    }
}

/// The key in a file of one line: a word and 64 digits.
fn key(path: &Path, word: &str) -> Result<[u8; 32]> {
    let text = fs::read_to_string(path).map_err(|e| io_error(path.display(), &e))?;
    let key = text.trim_end().strip_prefix(word).and_then(|rest| from_hex(rest.trim_start()));
    key.ok_or_else(|| {
        let path = path.display();
        invalid(format_args!("{path}: expected \"{word}\" and 64 hexadecimal digits"))
    })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_os_string();
    path.push(suffix);
    path.into()
}
