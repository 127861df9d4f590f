//! A file with `tenants` is a template: `{tenant}` stands for each of their names in turn.

use super::{
    error::{Collector, Problem},
    formats,
    keys::Format,
    section::Section,
    tree::{Node, Value},
};

/// The valid ones of the file's list; what is wrong with the others is reported by the check.
pub fn names(top: &Section, errors: &mut Collector) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in top.texts("tenants") {
        if names.contains(&name) {
            top.add_value(errors, "tenants", Problem::Rule("names a tenant twice".into()), &name);
        } else if formats::check_text(Format::Name, &name).is_ok() {
            names.push(name);
        }
    }
    if top.has("tenants") && top.is_empty_list("tenants") {
        top.add(errors, "tenants", Problem::Rule("is empty: name a tenant, or remove the key".into()));
    }
    if names.is_empty() && is_template(top, errors) {
        // So that the rest of the template is checked all the same.
        names.push("tenant".to_owned());
    }
    names
}

/// Replaces `{tenant}` in every scalar.
pub fn expand(root: &Node, tenant: &str) -> Node {
    let mut root = root.clone();
    root.for_each_scalar(&mut |_, scalar| {
        if scalar.text.contains(TENANT) {
            scalar.text = scalar.text.replace(TENANT, tenant);
        }
    });
    root
}

/// Whether the file asks for tenants, rightly or wrongly.
pub fn is_template(top: &Section, errors: &Collector) -> bool {
    top.has("tenants") || errors.is_excused("tenants")
}

const TENANT: &str = "{tenant}";

/// Reports `{tenant}` where there is no tenant to put in: anywhere in a file without `tenants`, and
/// in what all pipelines share.
pub fn check_placeholders(root: &Node, has_tenants: bool, errors: &mut Collector) {
    let Value::Map(entries) = &root.value else { return };
    for entry in entries {
        let shared = matches!(entry.name.as_str(), "pipeline" | "tenants" | "http" | "runtime");
        if has_tenants && !shared {
            continue;
        }
        let rule = if has_tenants {
            "is the same for all tenants, it cannot hold {tenant}"
        } else {
            "holds {tenant}, but the file has no list of tenants: give one, as tenants: [a, b]"
        };
        let mut node = entry.node.clone();
        node.for_each_scalar(&mut |origin, scalar| {
            if scalar.text.contains(TENANT) {
                errors.add(origin, entry.name.as_str(), Problem::Rule(rule.into()));
            }
        });
    }
}
