//! Chromium without a window, driven by its own protocol over a pipe: what it makes of a page, what it
//! complains about, whom the page asks.

use crate::harness::{DEADLINE, Run, Test, eventually_some};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

/// A browser with one page.
pub struct Browser {
    pipe: UnixStream,
    unread: Vec<u8>,
    session: Option<String>,
    sent: u64,
    /// What has happened, newest last.
    events: Vec<Value>,
    _process: Run,
}

/// Debian's name, and those of others.
fn program() -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths)
        .flat_map(|directory| ["chromium", "chromium-browser", "google-chrome"].map(|name| directory.join(name)))
        .find(|path| path.is_file());
    found.expect("Chromium, which scripts/setup.sh installs")
}

impl Browser {
    pub fn start(test: &Test) -> Browser {
        let (pipe, theirs) = UnixStream::pair().expect("a pair of sockets");
        pipe.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let profile = test.path("browser");
        let mut command = Command::new(program());
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // What it wants of its maker nevertheless has no address here.
            "--no-proxy-server",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--user-data-dir={}", profile.display()));
        let fd = theirs.as_raw_fd();
        // SAFETY: between fork and exec only calls that are safe there are made.
        unsafe {
            command.pre_exec(move || {
                // It reads commands from 3 and answers on 4; ours may be either of them.
                let free = libc::fcntl(fd, libc::F_DUPFD, 10);
                for wanted in [3, 4] {
                    if free < 0 || libc::dup2(free, wanted) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let process = Run::command(test, command);
        drop(theirs);
        let mut browser =
            Browser { pipe, unread: Vec::new(), session: None, sent: 0, events: Vec::new(), _process: process };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].as_str().map(str::to_owned);
        browser.call("Emulation.setScrollbarsHidden", json!({"hidden": true}));
        for domain in ["Page", "Network", "Log", "Runtime", "DOM"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// One command; gives its result.
    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut command = json!({"id": self.sent, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        self.pipe.write_all(format!("{command}\0").as_bytes()).expect("a browser that listens");
        loop {
            let message = self.read();
            if message["id"] == self.sent {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    fn read(&mut self) -> Value {
        let mut bytes = [0; 65_536];
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == 0) {
                let message: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&message[..end]).expect("JSON");
            }
            let count = self.pipe.read(&mut bytes).expect("an answer in time");
            assert!(count > 0, "the browser has ended");
            self.unread.extend_from_slice(&bytes[..count]);
        }
    }

    /// Opens a page anew, and forgets what the one before did.
    pub fn open(&mut self, url: &str, scripts: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !scripts}));
        self.call("Page.navigate", json!({"url": "about:blank"}));
        self.dom();
        self.events.clear();
        self.call("Page.navigate", json!({"url": url}));
        let is_loaded = |event: &Value| event["method"] == "Page.loadEventFired";
        while !self.events.iter().any(is_loaded) {
            let event = self.read();
            self.events.push(event);
        }
    }

    /// The document as it is now.
    pub fn dom(&mut self) -> String {
        let root = self.call("DOM.getDocument", json!({"depth": 0}));
        let html = self.call("DOM.getOuterHTML", json!({"nodeId": root["root"]["nodeId"]}));
        html["outerHTML"].as_str().expect("a text").to_owned()
    }

    /// Waits until the page's script has brought it up to date.
    #[track_caller]
    pub fn wait_until_refreshed(&mut self) -> String {
        eventually_some(DEADLINE, "a refreshed page", || Some(self.dom()).filter(|dom| dom.contains("data-refreshed=")))
    }

    /// The value of an expression, as the page's own console would give it.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let answer = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Width and height of the window.
    pub fn resize(&mut self, (width, height): (u32, u32), is_dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if is_dark { "dark" } else { "light" };
        self.call(
            "Emulation.setEmulatedMedia",
            json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        );
    }

    /// How wide the document is, which may be wider than the window.
    pub fn width(&mut self) -> u64 {
        let metrics = self.call("Page.getLayoutMetrics", json!({}));
        metrics["cssContentSize"]["width"].as_f64().expect("a width") as u64
    }

    /// What the window shows, as a PNG file.
    pub fn picture(&mut self, path: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let bytes = STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64");
        fs::write(path, bytes).expect("the picture");
    }

    /// Addresses that the page asked for.
    pub fn asked(&self) -> Vec<String> {
        let requests = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        requests.map(|event| event["params"]["request"]["url"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What the page, or the browser about the page, complained of or said.
    pub fn complaints(&self) -> Vec<String> {
        let kinds =
            ["Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"];
        let said = self.events.iter().filter(|event| kinds.iter().any(|kind| event["method"] == *kind));
        said.map(|event| event["params"].to_string()).collect()
    }
}
