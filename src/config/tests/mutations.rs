//! Files that are wrong at random: loading gives a configuration or errors, and never panics.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Mutation {
    Remove,
    Repeat,
    /// The value, with the key left in place.
    Value(String),
    Key(String),
    Indent(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let text = prop_oneof![
        "\\PC{0,12}",
        "(-|[0-9]){1,20}",
        Just("[a, {b: c}]".to_owned()),
        Just("{a: 1}".to_owned()),
        Just("${X:-{tenant}}".to_owned()),
        Just("&a é".to_owned()),
        Just("jdbc:postgresql:".to_owned()),
        Just("null".to_owned()),
    ];
    prop_oneof![
        Just(Mutation::Remove),
        Just(Mutation::Repeat),
        text.prop_map(Mutation::Value),
        "[a-z_]{1,12}".prop_map(Mutation::Key),
        (0usize..8).prop_map(Mutation::Indent),
    ]
}

fn mutate(text: &str, mutations: &[(usize, Mutation)]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (at, mutation) in mutations {
        let at = at % lines.len();
        let line = lines[at].clone();
        let (key, value) = line.split_once(':').unwrap_or((&line, ""));
        match mutation {
            Mutation::Remove if lines.len() > 1 => drop(lines.remove(at)),
            Mutation::Remove => {}
            Mutation::Repeat => lines.insert(at, line),
            Mutation::Value(text) => lines[at] = format!("{key}: {text}"),
            Mutation::Key(name) => lines[at] = format!("  {name}:{value}"),
            Mutation::Indent(width) => lines[at] = format!("{}{}", " ".repeat(*width), line.trim_start()),
        }
    }
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn a_wrong_file_gives_errors(
        which in 0usize..4,
        mutations in proptest::collection::vec((0usize..80, mutation()), 0..4),
    ) {
        let text = [GENERAL, super::forms::CONTRACT, super::forms::TENANTS, super::outputs::FULL][which];
        match load_text(Path::new("p.yml"), &mutate(text, &mutations), &Environment::default()) {
            Ok(config) => {
                prop_assert!(!config.pipelines.is_empty());
                for pipeline in &config.pipelines {
                    prop_assert!(pipeline.capture.is_some() || pipeline.land.is_some());
                }
                let shown = crate::config::show(&config);
                for document in shown.split("---\n") {
                    let again = load_text(Path::new("p.yml"), document, &Environment::default());
                    prop_assert!(again.is_ok(), "{:?}\n{}", again, document);
                }
            }
            Err(errors) => {
                prop_assert!(!errors.list().is_empty());
                let file = errors.list().iter().all(|error| error.line.is_none_or(|line| line > 0));
                prop_assert!(file, "{errors}");
            }
        }
    }
}
