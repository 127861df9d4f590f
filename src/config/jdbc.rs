//! `jdbc:postgresql://host:port/db?user=..`, as the PostgreSQL driver of Java reads it.

/// What a URL says; `None` where it is silent.
#[derive(Default, PartialEq)]
pub struct JdbcUrl {
    pub host: Option<String>,
    pub port: Option<String>,
    pub db: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// As in `postgres.tls_mode`.
    pub tls_mode: Option<&'static str>,
    pub tls_ca_file: Option<String>,
}

const FORM: &str = "jdbc:postgresql://host[:port]/db[?user=..&password=..&sslmode=..&sslrootcert=..]";

/// Parameters of the driver that only tune it: they have no meaning for us and do no harm.
const WITHOUT_MEANING: &[&str] = &[
    "ApplicationName",
    "binaryTransfer",
    "defaultRowFetchSize",
    "loginTimeout",
    "prepareThreshold",
    "reWriteBatchedInserts",
    "socketTimeout",
    "stringtype",
    "tcpKeepAlive",
];

/// The parts of `url`, or what is asked for ("must be …"). The words never hold any part of it.
pub fn parse(url: &str) -> Result<JdbcUrl, String> {
    let rest = url.strip_prefix("jdbc:postgresql:").ok_or_else(|| FORM.to_owned())?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut parts = JdbcUrl::default();
    let db = match place.strip_prefix("//") {
        Some(place) => {
            let (authority, db) = place.split_once('/').unwrap_or((place, ""));
            parse_authority(authority, &mut parts)?;
            db
        }
        // `jdbc:postgresql:db` is short for localhost.
        None => place.trim_start_matches('/'),
    };
    if db.contains('/') {
        return Err(format!("{FORM}, with a single name of a database"));
    }
    parts.db = filled(decode(db)?);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        parse_parameter(parameter, &mut parts)?;
    }
    Ok(parts)
}

fn parse_authority(authority: &str, parts: &mut JdbcUrl) -> Result<(), String> {
    if authority.contains(',') {
        return Err(
            "a URL of a single host: which of several is the primary is not Headwater's to choose, name that one"
                .into(),
        );
    }
    if authority.contains('@') {
        return Err(format!("{FORM}; user and password are parameters, not before an @"));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if let Some(port) = port {
        let valid = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
        if !valid {
            return Err(format!("{FORM}, with a port from 1 to 65535"));
        }
    }
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    parts.host = filled(host.to_owned());
    parts.port = port.map(str::to_owned);
    Ok(())
}

fn parse_parameter(parameter: &str, parts: &mut JdbcUrl) -> Result<(), String> {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    let value = decode(value)?;
    match name {
        "user" => parts.user = filled(value),
        "password" => parts.password = filled(value),
        "sslrootcert" => parts.tls_ca_file = filled(value),
        "sslmode" => {
            parts.tls_mode = Some(match value.as_str() {
                "disable" => "disable",
                "prefer" => "prefer",
                "require" => "require",
                "verify-full" => "verify-full",
                _ => return Err("a URL whose sslmode is disable, prefer, require or verify-full".into()),
            });
        }
        // The driver's meaning of it.
        "ssl" if value.is_empty() || value == "true" => {
            parts.tls_mode.get_or_insert("verify-full");
        }
        "ssl" => {}
        "currentSchema" => {
            return Err("a URL without currentSchema: write postgres.table as schema.table instead".into());
        }
        name if WITHOUT_MEANING.contains(&name) => {}
        // The name is not repeated: what looks like one may be the end of a password with an & in it.
        _ => {
            return Err("a URL with no other parameters than user, password, sslmode, ssl and sslrootcert \
                        (an & in a password is written %26)"
                .into());
        }
    }
    Ok(())
}

fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// `%41` and `+`, as Java's URL decoder has it.
fn decode(text: &str) -> Result<String, String> {
    let wrong = || "a URL whose % signs are each followed by two hexadecimal digits (a plain % is %25)".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or_else(wrong);
                let code = digit()? * 16 + digit()?;
                bytes.push(u8::try_from(code).map_err(|_| wrong())?);
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let url = parse("jdbc:postgresql://postgres:5432/food_delivery_db").ok().unwrap();
        assert_eq!(url.host.as_deref(), Some("postgres"));
        assert_eq!(url.port.as_deref(), Some("5432"));
        assert_eq!(url.db.as_deref(), Some("food_delivery_db"));
        assert!(url.user.is_none() && url.password.is_none());

        let url = parse(
            "jdbc:postgresql://[::1]:1/d%20b?user=a%40b&password=p+q%26r&ssl=true&sslrootcert=/ca.pem&tcpKeepAlive=true",
        );
        let url = url.ok().unwrap();
        assert_eq!(url.host.as_deref(), Some("::1"));
        assert_eq!(url.db.as_deref(), Some("d b"));
        assert_eq!(url.user.as_deref(), Some("a@b"));
        assert_eq!(url.password.as_deref(), Some("p q&r"));
        assert_eq!(url.tls_mode, Some("verify-full"));
        assert_eq!(url.tls_ca_file.as_deref(), Some("/ca.pem"));

        let url = parse("jdbc:postgresql:orders").ok().unwrap();
        assert!(url.host.is_none() && url.db.as_deref() == Some("orders"));
    }

    #[test]
    fn what_is_refused_and_never_repeated() {
        let refused = [
            ("postgresql://h/hunter2", "jdbc:postgresql://"),
            ("jdbc:postgresql://a:1,b:2/hunter2", "single host"),
            ("jdbc:postgresql://u:hunter2@h/d", "before an @"),
            ("jdbc:postgresql://h:hunter2/d", "port"),
            ("jdbc:postgresql://h/d?sslmode=hunter2", "sslmode"),
            ("jdbc:postgresql://h/d?password=x&hunter2", "%26"),
            ("jdbc:postgresql://h/d?currentSchema=hunter2", "schema.table"),
            ("jdbc:postgresql://h/d?password=hunter2%", "%25"),
            ("jdbc:postgresql://h/d/hunter2", "single name"),
        ];
        for (url, words) in refused {
            let error = parse(url).err().unwrap();
            assert!(error.contains(words), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
