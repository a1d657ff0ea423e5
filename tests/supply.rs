//! What tern is made of: the crates of `cargo metadata --locked`, against deny.toml and against the
//! few that the C library may bring into a robot's process. It reads deny.toml itself, so that the
//! two cannot differ; `make deny` asks cargo-deny the same and more.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What the C library links, on every system that it is made for: three crates, and what they need.
const LINKED: &[&str] = &["cfg-if", "half", "libc", "memmap2", "zerocopy"];
/// What only runs while the C library is compiled: a derive macro, and what it is made of.
const RUN_BY_THE_BUILD: &[&str] =
    &["proc-macro2", "quote", "syn", "unicode-ident", "zerocopy-derive"];

const TARGETS: &[&str] = &["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata(args: &[&str]) -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn packages(metadata: &Value) -> BTreeMap<&str, &Value> {
    let list = metadata["packages"].as_array().unwrap();
    list.iter().map(|p| (p["id"].as_str().unwrap(), p)).collect()
}

/// All crates that anything here is compiled from, on the systems that tern is made for.
fn every_crate(check: &mut dyn FnMut(&Value)) {
    let mut seen = BTreeSet::new();
    for target in TARGETS {
        let metadata = metadata(&["--filter-platform", target]);
        for (id, package) in packages(&metadata) {
            if seen.insert(id.to_string()) {
                check(package);
            }
        }
    }
    assert!(seen.len() > 20, "only {} crates found: does this test still see them?", seen.len());
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

#[test]
fn every_crate_has_a_licence_that_deny_toml_allows() {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let deny: toml::Table = text.parse().unwrap();
    let licenses = deny["licenses"].as_table().unwrap();
    let words = |list: &toml::Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_string()).collect()
    };
    let allowed = words(&licenses["allow"]);
    assert!(!allowed.is_empty());
    let excepted: BTreeMap<&str, Vec<String>> = licenses["exceptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["crate"].as_str().unwrap(), words(&e["allow"])))
        .collect();
    every_crate(&mut |package| {
        let name = name(package);
        let licence = package["license"].as_str();
        let licence = licence.unwrap_or_else(|| panic!("{name} does not name its licence"));
        let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX)
            .unwrap_or_else(|e| panic!("{name}: {licence}: {e}"));
        let also = excepted.get(name);
        let fits = expression.evaluate(|requirement| {
            let id = requirement.license.id().map(|id| id.name.to_string());
            id.is_some_and(|id| allowed.contains(&id) || also.is_some_and(|a| a.contains(&id)))
        });
        assert!(fits, "{name} {}: {licence}: deny.toml does not allow it", package["version"]);
    });
}

#[test]
fn every_crate_is_tern_itself_or_comes_from_the_registry() {
    every_crate(&mut |package| {
        let name = name(package);
        match package["source"].as_str() {
            None => assert_eq!(name, "tern", "{name} is a folder of somebody's disk"),
            Some(source) => assert!(
                source.starts_with("registry+") && source.ends_with("/crates.io-index"),
                "{name} comes from {source}"
            ),
        }
    });
    // And each has a checksum, so that what is compiled is what was looked at.
    for lock in ["Cargo.lock", "tests/bench/Cargo.lock"] {
        let text = std::fs::read_to_string(root().join(lock)).unwrap();
        let lock_file: toml::Table = text.parse().unwrap();
        for package in lock_file["package"].as_array().unwrap() {
            let known = package.get("checksum").is_some_and(|c| c.as_str().unwrap().len() == 64);
            let name = package["name"].as_str().unwrap();
            assert!(known || package.get("source").is_none(), "{lock}: {name} has no checksum");
        }
    }
}

#[test]
fn the_c_library_links_three_crates_and_what_they_need() {
    for target in TARGETS {
        let metadata = metadata(&["--no-default-features", "--filter-platform", target]);
        let packages = packages(&metadata);
        let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| (node["id"].as_str().unwrap(), node))
            .collect();
        let has = |id: &str, kind: &str| {
            let targets = packages[id]["targets"].as_array().unwrap();
            targets.iter().any(|t| t["kind"].as_array().unwrap().iter().any(|k| k == kind))
        };
        let (mut linked, mut run) = (BTreeSet::new(), BTreeSet::new());
        // A crate, and whether it runs while others are compiled.
        let mut left = vec![(metadata["resolve"]["root"].as_str().unwrap(), false)];
        while let Some((id, runs)) = left.pop() {
            let runs = runs || has(id, "proc-macro");
            if !(if runs { &mut run } else { &mut linked }).insert(id) {
                continue;
            }
            for dependency in nodes[id]["deps"].as_array().unwrap() {
                let kinds = dependency["dep_kinds"].as_array().unwrap();
                let kind = |wanted: &str| kinds.iter().any(|k| k["kind"] == wanted);
                let normal = kinds.iter().any(|k| k["kind"].is_null());
                if normal || kind("build") {
                    left.push((dependency["pkg"].as_str().unwrap(), runs || !normal));
                }
            }
        }
        let names = |ids: &BTreeSet<&str>| -> BTreeSet<String> {
            let names = ids.iter().map(|id| name(packages[id]).to_string());
            names.filter(|name| name != "tern").collect()
        };
        let expected = |list: &[&str]| list.iter().map(|n| n.to_string()).collect::<BTreeSet<_>>();
        assert_eq!(names(&linked), expected(LINKED), "linked, {target}");
        assert_eq!(names(&run), expected(RUN_BY_THE_BUILD), "run by the build, {target}");
    }
}
