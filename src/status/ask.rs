//! One question to a running process, in HTTP/1.0: its answer is never chunked and ends with the connection.

use crate::{
    config::model::{Http, Secret},
    visible::excerpt,
};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const TIMEOUT: Duration = Duration::from_secs(5);
/// No status is that long.
const MOST_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("http.listen is null, so that the process has no server to ask: give it an address")]
    Off,
    #[error(
        "http.listen has port 0, which is another one at each start: give its address, which is in the log, with --url"
    )]
    AnyPort,
    #[error("--url {url} must be http://host:port (what speaks https is a proxy before headwater: ask it with curl)")]
    Url { url: String },
    #[error("nothing answers at {url}: {source}; is headwater running there, with this http.listen?")]
    Connect { url: String, source: io::Error },
    #[error("what answers at {url} does so after more than {} s, if at all", TIMEOUT.as_secs())]
    Slow { url: String },
    #[error("what answers at {url} is not headwater: {what}")]
    Foreign { url: String, what: String },
    #[error(
        "{url} asks for a token, {}",
        if *.was_sent { "and this is another one: it is that of http.token_file" } else { "and there is none: see http.token_file, or give --token-file" }
    )]
    Token { url: String, was_sent: bool },
    #[error("{url} answers {code}: {text}")]
    Refused { url: String, code: u16, text: String },
}

/// Where a process answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    /// `host:port`
    authority: String,
}

impl Address {
    /// Of a process that listens as its configuration says, on this machine.
    pub fn of(http: &Http) -> Result<Address, AskError> {
        let listen = http.listen.as_deref().ok_or(AskError::Off)?;
        let (host, port) = listen.rsplit_once(':').unwrap_or((listen, "80"));
        if port.parse() == Ok(0_u16) {
            return Err(AskError::AnyPort);
        }
        // Every address is ours too; but this one is surely reached.
        let host = match host {
            "0.0.0.0" => "127.0.0.1",
            "[::]" => "[::1]",
            host => host,
        };
        Ok(Address { authority: format!("{host}:{port}") })
    }

    /// Of `http://host:port`; what follows is not looked at, for the path is ours.
    pub fn of_url(url: &str) -> Result<Address, AskError> {
        let wrong = || AskError::Url { url: url.to_owned() };
        let (_, rest) =
            url.split_once("://").filter(|(scheme, _)| scheme.eq_ignore_ascii_case("http")).ok_or_else(wrong)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'@';
        if authority.is_empty() || !authority.bytes().all(is_plain) {
            return Err(wrong());
        }
        let has_port = !authority.ends_with(']') && authority.contains(':');
        Ok(Address { authority: if has_port { authority.to_owned() } else { format!("{authority}:80") } })
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
    }
}

/// The body of `/status`.
pub async fn ask(address: &Address, token: Option<&Secret>) -> Result<String, AskError> {
    let url = address.url("/status");
    let answer = tokio::time::timeout(TIMEOUT, exchange(address, token)).await;
    let answer = answer.map_err(|_| AskError::Slow { url: url.clone() })?;
    let answer = answer.map_err(|source| AskError::Connect { url: url.clone(), source })?;
    let foreign = |what: &str| AskError::Foreign { url: url.clone(), what: what.to_owned() };
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(|| foreign("no HTTP"))?;
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    let code = head.split(|byte| *byte == b' ').nth(1).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    match code {
        Some(200) => String::from_utf8(body.to_vec()).map_err(|_| foreign("its answer is no text")),
        Some(401) => Err(AskError::Token { url, was_sent: token.is_some() }),
        Some(404) => Err(foreign("it has no /status")),
        Some(code) => Err(AskError::Refused { url, code, text: excerpt(body.trim_ascii(), 300) }),
        None => Err(foreign("no HTTP")),
    }
}

async fn exchange(address: &Address, token: Option<&Secret>) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(&address.authority).await?;
    let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {}\r\n", token.reveal()));
    let request = format!("GET /status HTTP/1.0\r\nHost: {}\r\n{authorization}\r\n", address.authority);
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(listen: Option<&str>) -> Result<String, AskError> {
        let listen = listen.map(str::to_owned);
        Address::of(&Http { listen, allowed_hosts: vec![], token: None, show_payloads: true })
            .map(|found| found.authority)
    }

    #[test]
    fn the_address_is_that_of_the_configuration() {
        assert_eq!(listening(Some("127.0.0.1:9464")).unwrap(), "127.0.0.1:9464");
        assert_eq!(listening(Some("0.0.0.0:1")).unwrap(), "127.0.0.1:1");
        assert_eq!(listening(Some("[::]:1")).unwrap(), "[::1]:1");
        assert_eq!(listening(Some("box:1")).unwrap(), "box:1");
        assert!(matches!(listening(None), Err(AskError::Off)));
        assert!(matches!(listening(Some("localhost:0")), Err(AskError::AnyPort)));
    }

    #[test]
    fn the_address_of_an_url() {
        let of = |url| Address::of_url(url).map(|address| address.authority);
        assert_eq!(of("http://box:9464").unwrap(), "box:9464");
        assert_eq!(of("HTTP://[::1]/status?x").unwrap(), "[::1]:80");
        assert_eq!(of("http://[::1]:9464/").unwrap(), "[::1]:9464");
        assert_eq!(of("http://10.0.0.1").unwrap(), "10.0.0.1:80");
        for wrong in
            ["", "box:9464", "https://box", "http://", "http:///x", "http://a b", "http://user@box", "http://b\r\nx"]
        {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
