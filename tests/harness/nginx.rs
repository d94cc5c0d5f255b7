//! Debian's nginx with the directives of the committed `deploy/nginx.conf`.

use std::{os::unix::fs::PermissionsExt as _, process::Command};

use super::{child::Owned, free_port};

const MISSING: &str = "The tests need nginx: run `make setup` (or name the binary in NGINX).";

/// A running nginx in front of some instances. It ends with this value.
pub struct Nginx {
    child: Owned,
    port: u16,
    directory: tempfile::TempDir,
}

impl Nginx {
    /// Starts nginx in front of the instances on these ports and waits until it accepts.
    pub async fn start(ports: &[u16]) -> Self {
        for _ in 0..5 {
            let port = free_port();
            let directory = tempfile::tempdir().expect("a temporary directory can be made");
            // Workers may run as another user than the test.
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
            std::fs::write(directory.path().join("nginx.conf"), configuration(port, ports)).expect("it is ours");
            let mut command = Command::new(program());
            command.arg("-p").arg(directory.path()).args([
                "-e",
                "stderr",
                "-c",
                "nginx.conf",
                "-g",
                "daemon off; pid nginx.pid;",
            ]);
            let mut child = Owned::spawn(&mut command, MISSING);
            if child.comes_up(async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await {
                return Self { child, port, directory };
            }
            // Somebody may have taken the port; anything else is for the reader of the failure.
            let said = child.stderr.all();
            assert!(said.iter().any(|line| line.contains("Address already in use")), "nginx did not start: {said:#?}");
        }
        panic!("nginx found no free port");
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it printed.
    pub fn log(&self) -> Vec<String> {
        self.child.stderr.all()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master takes its workers along only when it is asked, not when it is killed.
        self.child.signal(super::Signal::Term);
        for _ in 0..500 {
            if self.child.exited().is_some() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn program() -> std::ffi::OsString {
    if let Some(named) = std::env::var_os("NGINX") {
        return named;
    }
    // Debian keeps it where the path of an ordinary user does not lead.
    if std::path::Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx".into() } else { "nginx".into() }
}

/// The committed file with three things changed: the address to listen on, the instances, and where nginx may write.
fn configuration(port: u16, ports: &[u16]) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/nginx.conf");
    let committed = std::fs::read_to_string(path).expect("deploy/nginx.conf is there");
    let mut changed = String::new();
    let (mut listens, mut servers, mut https) = (0, 0, 0);
    for line in committed.lines() {
        let words = line.trim();
        if words.starts_with("listen ") {
            listens += 1;
            changed += &format!("listen 127.0.0.1:{port};\n");
        } else if words.starts_with("server ") && words.ends_with(';') {
            // The first one stands for all of them, its parameters included.
            servers += 1;
            if servers == 1 {
                let parameters = words.trim_end_matches(';').split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
                for instance in ports {
                    changed += &format!("server 127.0.0.1:{instance} {parameters};\n");
                }
            }
        } else if words.starts_with("access_log ") {
            changed += "access_log off;\n";
        } else {
            changed += line;
            changed.push('\n');
            if words == "http {" {
                https += 1;
                for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
                    changed += &format!("{kind}_temp_path {kind}_temp;\n");
                }
            }
        }
    }
    assert!(
        listens == 1 && servers >= 1 && https == 1,
        "deploy/nginx.conf no longer has the shape that this test changes"
    );
    changed
}
