//! What is released: the archive, and the Debian package installed in an empty root.

use crate::{
    cli::commands,
    harness::{Test, run_directory},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
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

/// The directory of archive and package, which are made once a run.
pub fn packages() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let directory = run_directory().join("dist");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package.sh");
        println!("{}", run(script, &[env!("CARGO_BIN_EXE_headwater"), &directory.display().to_string()]));
        directory
    })
}

fn architecture() -> String {
    run("dpkg", &["--print-architecture"]).trim().to_owned()
}

/// The Debian package.
pub fn package() -> String {
    packages().join(format!("headwater_{VERSION}_{}.deb", architecture())).display().to_string()
}

/// The relative links of a page in Markdown, without the part behind `#`.
fn links(text: &str) -> BTreeSet<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let targets = targets.map(|(target, _)| target.split('#').next().unwrap_or_default());
    targets.filter(|target| !target.is_empty() && !target.contains("://")).map(str::to_owned).collect()
}

#[test]
fn the_package_installs_in_an_empty_root_and_works_there() {
    let test = Test::new();
    let deb = package();
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
    for file in ["orders_stream.yml", "tables.yml", "tenants.yml", "chat.yml"] {
        run(&binary, &["validate", "-c", &at("etc/headwater").join(file).display().to_string()]);
    }
    let described = run("dpkg-query", &[&format!("--admindir={}", at("var/lib/dpkg").display()), "-s", "headwater"]);
    assert!(described.contains("Status: install ok installed"), "{described}");
    for library in ["libc6", "libssl3", "libgcc-s1", "zlib1g", "ca-certificates"] {
        assert!(described.contains(library), "{library} in: {described}");
    }
    let mut installed = vec!["lib/systemd/system/headwater@.service".to_owned(), "usr/bin/headwater-as".to_owned()];
    installed.extend(
        ["share/bash-completion/completions/headwater", "share/zsh/vendor-completions/_headwater"]
            .map(|it| format!("usr/{it}")),
    );
    installed.push("usr/share/fish/vendor_completions.d/headwater.fish".to_owned());
    installed.push("usr/share/man/man1/headwater.1.gz".to_owned());
    installed.extend(commands().iter().map(|path| format!("usr/share/man/man1/headwater-{}.1.gz", path.join("-"))));
    for path in installed {
        assert!(std::fs::metadata(at(&path)).is_ok_and(|file| file.is_file() && file.len() > 0), "{path} in the root");
    }
    let help = run(at("usr/bin/headwater-as"), &["--help"]);
    assert!(help.starts_with("Runs a command") && help.contains("doctor") && !help.contains("set -eu"), "{help}");
    let page = run("man", &["--warnings", "-P", "cat", &at("usr/share/man/man1/headwater.1.gz").display().to_string()]);
    assert!(page.contains("headwater-dlq"), "{page}");
    // Whoever reads the pages that are installed can follow them.
    let pages = ["README.md", "docs/page.md", "docs/views.md", "docs/analyze-tables.md"]
        .map(|it| at("usr/share/doc/headwater").join(it));
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        let found = links(&text);
        assert!(found.len() > 5 || !page.ends_with("README.md"), "{found:?}");
        for link in found {
            let target = page.with_file_name(&link);
            assert!(target.exists(), "{} links to {link}, which is not installed", page.display());
        }
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
fn the_archive_holds_what_the_package_holds_and_works() {
    let test = Test::new();
    let dist = packages();
    let archive = dist.join(format!("headwater-{VERSION}-{}-linux.tar.gz", architecture())).display().to_string();
    let root = test.dir().display().to_string();
    run("tar", &["-C", &root, "-xzf", &archive]);
    let unpacked = test.dir().join("headwater");
    assert_eq!(run(unpacked.join("usr/bin/headwater"), &["--version"]).trim(), format!("headwater {VERSION}"));
    let example = unpacked.join("usr/share/doc/headwater/configs/chat.yml").display().to_string();
    run(unpacked.join("usr/bin/headwater"), &["validate", "-c", &example]);
    // Rights, size, name and where a link leads, of all but directories; times and owners apart.
    let listed = |lines: String, top: &str| -> BTreeSet<String> {
        let line = |line: &str| {
            let mut fields = line.split_whitespace();
            let (rights, _, size) = (fields.next()?, fields.next()?, fields.next()?);
            let name = fields.skip(2).collect::<Vec<_>>().join(" ");
            (!rights.starts_with('d')).then(|| format!("{rights} {size} {}", name.trim_start_matches(top)))
        };
        lines.lines().filter_map(line).collect()
    };
    let in_archive = listed(run("tar", &["--numeric-owner", "-tvzf", &archive]), "headwater/");
    let in_package = listed(run("dpkg-deb", &["-c", &package()]), "./");
    assert!(in_archive.len() > 40, "{in_archive:#?}");
    let different: Vec<&String> = in_archive.symmetric_difference(&in_package).collect();
    assert!(different.is_empty(), "{different:#?}");
    run("sh", &["-c", &format!("cd {} && sha256sum --check --quiet ./*.sha256", dist.display())]);
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
    let all = commands();
    for path in &all {
        let name = format!("headwater-{}", path.join("-"));
        let text = render(&format!("{name}.1"));
        // It is found from the page above, and shows what to type.
        let above = render(&format!("{}.1", name.rsplit_once('-').unwrap().0));
        assert!(text.contains(&name) && above.contains(&name), "{name}: {text}");
        let has_parts = all.iter().any(|other| other.len() > path.len() && other.starts_with(path));
        assert!(
            has_parts
                || text.contains(&format!("  headwater {} ", path.join(" ")))
                || text.contains("  headwater demo\n"),
            "{text}"
        );
    }
    assert_eq!(std::fs::read_dir(&pages).unwrap().count(), all.len() + 1, "a page for each, and no other");
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
