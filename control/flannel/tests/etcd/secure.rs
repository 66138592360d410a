//! TLS, certificates, user names and passwords.

use crate::lab::{CONF, Follower, PREFIX, SOON, Server, node, until, value};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use weft_flannel::etcd::{Etcd, Settings, Timing, Tls};
use weft_flannel::store::{Store, StoreError};

async fn acquire(settings: Settings) -> Result<(), StoreError> {
    let mut store = Store::Etcd(Etcd::new(settings)?);
    match tokio::time::timeout(SOON, store.acquire(&node(7))).await {
        Ok(result) => result.map(drop),
        Err(_) => panic!("no answer"),
    }
}

fn openssl(folder: &Path, args: &str) {
    let output =
        Command::new("openssl").args(args.split(' ')).current_dir(folder).output().expect("openssl runs");
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a certificate by it for servers and one for clients.
fn certificates(folder: &Path) {
    std::fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1,DNS:localhost").expect("a file");
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["ca", "other"] {
        openssl(folder, &format!("{new} -x509 -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt"));
    }
    for name in ["server", "client"] {
        openssl(folder, &format!("{new} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let sign = "x509 -req -days 2 -CA ca.crt -CAkey ca.key -CAcreateserial -extfile san";
        openssl(folder, &format!("{sign} -in {name}.csr -out {name}.crt"));
    }
}

#[tokio::test]
async fn certificates_of_both_sides_are_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (cert, key, ca) = (path("server.crt"), path("server.key"), path("ca.crt"));
    let mut server = Server::start_with(
        "https",
        &["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"],
    );
    let (cert, key) = (path("client.crt"), path("client.key"));
    server.ctl.args = ["--cacert", &ca, "--cert", &cert, "--key", &key].map(str::to_owned).to_vec();
    server.ctl.run(&["put", &format!("{PREFIX}/config"), CONF]);

    let tls = Tls { ca: Some(ca.into()), certificate: Some(cert.into()), key: Some(key.into()) };
    // An endpoint without a scheme speaks TLS where there is a certificate.
    let mut settings = Settings { tls, ..server.settings() };
    settings.endpoints = vec![server.ctl.endpoint.replace("https://", "")];
    let follower = Follower::start(settings.clone(), &node(7)).await;
    assert_eq!(server.ctl.get(&follower.key()), value(7));

    let lost = |settings: Settings| async move {
        let mut store = Store::Etcd(Etcd::new(settings).expect("right settings"));
        let status = store.status();
        let trying = tokio::spawn(async move { store.acquire(&node(8)).await.map(drop) });
        let reason = || status.borrow().lost.clone().unwrap_or_default();
        until("a reason", || reason().contains("can't be reached")).await;
        trying.abort();
        reason()
    };
    let other = Tls { ca: Some(path("other.crt").into()), ..settings.tls.clone() };
    let reason = lost(Settings { tls: other, ..settings.clone() }).await;
    assert!(reason.contains("certificate"), "{reason}");
    let nobody = Tls { certificate: None, key: None, ..settings.tls.clone() };
    lost(Settings { tls: nobody, ..server.settings() }).await;
    assert_eq!(server.ctl.keys(), [follower.key()], "nobody else got in");

    for (tls, wanted) in [
        (Tls { key: None, ..settings.tls.clone() }, "a certificate needs its key"),
        (Tls { ca: Some(path("nothing").into()), ..settings.tls.clone() }, "cannot read"),
    ] {
        let error = acquire(Settings { tls, ..settings.clone() }).await.expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn user_name_and_password() {
    let mut server = Server::start(CONF);
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "add", "weft:word"],
        &["user", "add", "stranger:word"],
        &["role", "add", "flannel"],
        &["role", "grant-permission", "--prefix=true", "flannel", "readwrite", PREFIX],
        &["user", "grant-role", "weft", "flannel"],
        &["user", "grant-role", "root", "root"],
    ] {
        // The role of root is there on some versions, and not on others.
        let _ = server.ctl.try_run(args);
    }
    server.ctl.run(&["auth", "enable"]);
    server.ctl.args = vec!["--user=root:secret".to_owned()];

    let as_user = |name: &str, password: &str| Settings {
        user: Some((name.to_owned(), password.to_owned())),
        ..server.settings()
    };
    for (settings, wanted) in [
        (server.settings(), "asks for a user name and a password"),
        (as_user("weft", "wrong"), "correct the user name or the password"),
        (as_user("stranger", "word"), "permission denied"),
    ] {
        let error = acquire(settings).await.expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}");
    }

    let timing =
        Timing { lease: Duration::from_secs(4), margin: Duration::from_secs(2), ..server.settings().timing };
    let mut follower = Follower::start(Settings { timing, ..as_user("weft", "word") }, &node(7)).await;
    let key = follower.key();
    server.ctl.put("10.5.251.0-24", &value(1));
    follower.until_peers(&["10.5.251.0-24"]).await;
    // Tokens of before are worth nothing after this; the next renewal gets one of its own.
    server.ctl.run(&["user", "add", "another:word"]);
    let version = server.ctl.number(&key, "version");
    until("two renewals", || server.ctl.number(&key, "version") >= version + 2).await;
    // A name and a password are no harm where nobody asks for them.
    server.ctl.run(&["auth", "disable"]);
    server.ctl.args.clear();
    acquire(Settings { user: Some(("weft".to_owned(), "word".to_owned())), ..server.settings() })
        .await
        .expect("a lease");
}
