//! What is released: the archive, and the Debian package installed in an empty root.

use crate::harness::Test;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs a command to its end and gives what it printed.
#[track_caller]
fn run(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let program = program.as_ref();
    let output = Command::new(program).args(arguments).output().expect("the command");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} {arguments:?}: {out}{err}", program.display());
    out.into_owned()
}

/// Makes the packages once and gives their directory.
fn packages(test: &Test) -> PathBuf {
    let directory = test.dir().join("dist");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package.sh");
    let made = run(script, &[env!("CARGO_BIN_EXE_headwater"), &directory.display().to_string()]);
    println!("{made}");
    directory
}

#[test]
fn the_package_installs_in_an_empty_root_and_works_there() {
    let test = Test::new();
    let dist = packages(&test);
    let arch = run("dpkg", &["--print-architecture"]).trim().to_owned();
    let deb = dist.join(format!("headwater_{VERSION}_{arch}.deb")).display().to_string();
    let root = test.dir().join("root");
    for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let at = |path: &str| root.join(path);
    // The libraries that it depends on are this machine's: nothing else is in the root.
    let (root_option, log) = (format!("--root={}", root.display()), format!("--log={}", at("dpkg.log").display()));
    run("dpkg", &[&root_option, &log, "--force-depends", "--install", &deb]);

    let binary = at("usr/bin/headwater");
    assert_eq!(run(&binary, &["--version"]).trim(), format!("headwater {VERSION}"));
    for file in ["orders_stream.yml", "tables.yml", "chat.yml"] {
        run(&binary, &["validate", "-c", &at("etc/headwater").join(file).display().to_string()]);
    }
    let described = run("dpkg-query", &[&format!("--admindir={}", at("var/lib/dpkg").display()), "-s", "headwater"]);
    assert!(described.contains("Status: install ok installed"), "{described}");
    for library in ["libc6", "libssl3", "libgcc-s1", "zlib1g", "ca-certificates"] {
        assert!(described.contains(library), "{library} in: {described}");
    }
    // What an administrator has changed stays over an upgrade.
    assert!(described.contains(" /etc/headwater/chat.yml "), "{described}");
    // systemd finds the unit and its command, among units of its own, of which an empty root has none.
    for unit in std::fs::read_dir("/lib/systemd/system").expect("systemd's units").map(Result::unwrap) {
        if ["target", "slice", "mount", "socket"]
            .iter()
            .any(|kind| unit.path().extension().is_some_and(|it| it == *kind))
        {
            std::fs::copy(unit.path(), at("lib/systemd/system").join(unit.file_name())).unwrap();
        }
    }
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", &format!("--root={}", root.display()), "headwater@chat.service"])
        .output()
        .expect("systemd-analyze");
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    let about_it: Vec<&str> = complaints.lines().filter(|line| line.contains("headwater@")).collect();
    assert!(about_it.is_empty(), "{complaints}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(at("etc/headwater/credentials")).unwrap().permissions().mode() & 0o777, 0o700);
    run("dpkg", &[&root_option, &log, "--force-depends", "--purge", "headwater"]);
    assert!(!binary.exists() && !at("etc/headwater/chat.yml").exists());
}

#[test]
fn every_command_has_a_man_page_and_completions() {
    let test = Test::new();
    let binary = env!("CARGO_BIN_EXE_headwater");
    let pages = test.dir().join("man");
    run(binary, &["man", &pages.display().to_string()]);
    let render = |page: &str| {
        let text = run("man", &["--warnings", "-P", "cat", &pages.join(page).display().to_string()]);
        assert!(text.lines().count() > 10, "{page}: {text}");
        text
    };
    let top = render("headwater.1");
    assert!(top.contains("75"), "exit codes in {top}");
    for command in ["run", "validate", "verify", "analyze", "anomalies", "completions", "generate"] {
        let page = format!("headwater-{command}.1");
        let text = render(&page);
        assert!(
            text.contains(&format!("headwater-{command}")) && top.contains(&format!("headwater-{command}")),
            "{text}"
        );
    }
    assert!(!top.contains("reference"), "hidden commands stay hidden");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(binary, &["completions", shell]);
        assert!(script.contains("until-caught-up"), "{shell}");
        // Where the shell is here it reads its script.
        let file = test.write(&format!("completion.{shell}"), &script).display().to_string();
        if let Ok(checked) = Command::new(shell).args(["-n", &file]).output() {
            assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }
}
