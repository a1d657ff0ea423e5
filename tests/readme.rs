//! What the documents show is what is there: the README's program is examples-c/hello.c, its
//! commands exist, and the versions agree.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The fenced blocks of a Markdown text that are marked with a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let open = format!("```{language}\n");
    text.split(&open).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

#[test]
fn the_readme_shows_hello_c() {
    let readme = read("README.md");
    let shown = blocks(&readme, "c");
    assert_eq!(shown.len(), 1, "README.md has one program in C");
    assert_eq!(shown[0].trim_end(), read("examples-c/hello.c").trim_end());
}

#[test]
fn make_has_the_commands_that_documents_name() {
    let makefile = read("Makefile");
    let mut n = 0;
    for document in ["README.md", "TESTING.md"] {
        for line in read(document).lines() {
            for (at, _) in line.match_indices("make ") {
                // Only commands: at the start of a line of code, or in backticks.
                if at != 0 && !line[..at].ends_with('`') {
                    continue;
                }
                let target: String = line[at + 5..]
                    .chars()
                    .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                    .collect();
                let rule = format!("\n{target}:");
                assert!(makefile.contains(&rule), "{document}: make has no target {target:?}");
                n += 1;
            }
        }
    }
    assert!(n >= 4, "only {n} commands found: does this test still see them?");
}

#[test]
fn testing_md_names_every_step() {
    let (script, testing) = (read("tests/run.sh"), read("TESTING.md"));
    let table = script.split("STEPS='\n").nth(1).unwrap().split("\n'").next().unwrap();
    let steps: Vec<_> = table.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert!(steps.len() > 10, "only {} steps found: does this test still see them?", steps.len());
    for step in steps {
        assert!(
            testing.contains(&format!("`{step}`")),
            "TESTING.md does not say what {step} proves"
        );
    }
}

#[test]
fn testing_md_names_every_file_of_tests() {
    let testing = read("TESTING.md");
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".rs") {
            assert!(
                testing.contains(&format!("](tests/{name})")),
                "TESTING.md does not say what tests/{name} proves"
            );
        }
    }
}

#[test]
fn files_that_documents_link_to_exist() {
    for document in ["README.md", "TESTING.md", "SECURITY.md", "CHANGELOG.md"] {
        let text = read(document);
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.split('#').next().unwrap();
            if path.contains("://") || path.is_empty() {
                continue;
            }
            assert!(
                Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(),
                "{document} links to {path}, which does not exist"
            );
        }
    }
}

#[test]
fn the_changelog_knows_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let changelog = read("CHANGELOG.md");
    assert!(
        changelog.contains(&format!("## [{version}]")) || changelog.contains("## [Unreleased]"),
        "CHANGELOG.md has no section for {version}"
    );
    for section in ["### ABI", "### Speed"] {
        assert!(changelog.contains(section), "CHANGELOG.md has no {section}");
    }
}
