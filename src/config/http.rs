//! The `http` section.

use super::{
    error::{Collector, Problem},
    model::{Http, Secret},
    section::Section,
};

pub fn build(http: &Section, errors: &mut Collector) -> Http {
    let token = http.secret("token", errors);
    // A header cannot carry others, so that no request could ever bring such a token.
    if let Some(token) = &token
        && !token.bytes().all(|byte| byte.is_ascii_graphic())
    {
        let name = if http.has("token_file") { "token_file" } else { "token" };
        let rule = "must hold visible ASCII characters only, as `openssl rand -hex 32` gives them";
        http.add(errors, name, Problem::Rule(rule.into()));
    }
    Http {
        listen: http.text("listen"),
        allowed_hosts: http.texts("allowed_hosts"),
        token: token.map(Secret::new),
        show_payloads: http.boolean("show_payloads"),
    }
}
