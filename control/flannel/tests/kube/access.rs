//! Ways to the API server.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::ring};
use weft_flannel::kube::{Access, Kube};

use crate::lab::{Lab, Running, VXLAN, bare_node, node, read, wait_for};
use crate::server::Server;

/// The files in `tls` are good until 2126; nobody has the authority's key any more.
fn file(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube/tls").join(name)
}

fn tls() -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn kubeconfig(server: SocketAddr, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: weft\n\
         contexts: [{{name: weft, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://{server}', certificate-authority: {}}}}}]\n\
         users: [{{name: u, user: {user}}}]\n",
        file("ca.pem").display()
    )
}

#[tokio::test]
async fn a_kubeconfig_with_authority_and_token() {
    let server = Server::start_at("127.0.0.1:0".parse().unwrap(), Some(tls()), || {});
    server.want_token("sesame");
    let lab = Lab::empty(server, VXLAN);
    lab.server.put("nodes", bare_node(1));
    lab.server.put("nodes", node(2));
    let (config, token) = (lab.path("kubeconfig"), lab.path("token"));
    fs::write(&token, "sesame").unwrap();
    fs::write(&config, kubeconfig(lab.server.address, &format!("{{tokenFile: {}}}", token.display())))
        .unwrap();
    let mut options = lab.options();
    options.access = Access { url: None, kubeconfig: Some(config.clone()) };
    let mut running = Running::of(Kube::connect(options.clone()).await.unwrap()).await;
    assert_eq!(running.names(), ["n2"]);
    wait_for("the patches", || (lab.server.patches().len() == 2).then_some(())).await;

    // Credentials change on both sides: what is refused is tried again with what the files say then.
    lab.server.want_token("open");
    lab.server.cut();
    running.until("that it is refused", |r| r.lost == 1).await;
    assert!(running.status.borrow().lost.as_ref().unwrap().contains("401"), "{:?}", running.status.borrow());
    fs::write(&token, "open").unwrap();
    lab.server.put("nodes", node(3));
    running.until("the news", |r| r.names() == ["n2", "n3"]).await;

    // Another authority has not signed this server.
    let other = read(&config)
        .replace(&file("ca.pem").display().to_string(), &lab.path("other.pem").display().to_string());
    fs::write(lab.path("other.pem"), read(&file("ca.pem")).replace("BEGIN CERTIFICATE", "BEGIN X")).unwrap();
    fs::write(&config, other).unwrap();
    let error = Kube::connect(options).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("kubeconfig"), "{error}");
}

#[tokio::test]
async fn a_server_that_no_known_authority_has_signed_is_not_talked_to() {
    let server = Server::start_at("127.0.0.1:0".parse().unwrap(), Some(tls()), || {});
    let mut lab = Lab::empty(server, VXLAN);
    lab.patience.answer = std::time::Duration::from_secs(5);
    lab.server.put("nodes", bare_node(1));
    let mut options = lab.options();
    options.access.url = Some(format!("https://{}", lab.server.address));
    let kube = Kube::connect(options).await.unwrap();
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(300), kube.advice());
    assert!(waiting.await.is_err());
    assert!(lab.server.asked().is_empty());
}

#[tokio::test]
async fn what_an_operator_must_mend_is_said_at_once() {
    let lab = Lab::new(VXLAN);
    let says = |options| async { Kube::connect(options).await.map(|_| ()).unwrap_err().to_string() };
    let mut options = lab.options();
    options.access = Access { url: None, kubeconfig: Some(lab.path("none")) };
    assert!(says(options.clone()).await.contains("none"));
    fs::write(lab.path("none"), "{{{").unwrap();
    assert!(says(options.clone()).await.contains("none"));
    fs::write(lab.path("none"), kubeconfig(lab.server.address, "{tokenFile: /nowhere}")).unwrap();
    assert!(says(options.clone()).await.contains("/nowhere"));
    options.access = Access::default();
    assert!(says(options.clone()).await.contains("--kubeconfig-file"));
    options.access.url = Some("example.com".to_owned());
    assert!(says(options).await.contains("https://HOST:PORT"));
    let mut options = lab.options();
    options.annotation_prefix = "UPPER".to_owned();
    assert!(says(options).await.contains("--kube-annotation-prefix"));
    let mut options = lab.options();
    options.net_conf = lab.path("missing.json");
    assert!(says(options).await.contains("--net-config-path"));
    let mut options = lab.options();
    fs::write(lab.path("wireguard.json"), r#"{"Network":"10.0.0.0/8","Backend":{"Type":"wireguard"}}"#)
        .unwrap();
    options.net_conf = lab.path("wireguard.json");
    assert!(says(options).await.contains("wireguard"));
    let mut options = lab.options();
    options.node = weft_flannel::kube::ThisNode::Named("../etc".to_owned());
    assert!(says(options).await.contains("NODE_NAME"));
}
