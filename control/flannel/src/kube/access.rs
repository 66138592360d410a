//! The way to the API server: its address, its certificate authority and our credentials, from a kubeconfig or from
//! what a pod is given.

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::PathBuf;
use std::time::Duration;
use tower::{BoxError, ServiceBuilder};

/// Where the API server is, as flanneld's options say it. Neither: what the pod that we run in was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `--kube-api-url`: the server, in place of the one in the kubeconfig.
    pub url: Option<String>,
    /// `--kubeconfig-file`.
    pub kubeconfig: Option<PathBuf>,
}

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccessError {
    #[error("the kubeconfig {}: {}", .0.display(), with_causes(.1))]
    Kubeconfig(PathBuf, kube::config::KubeconfigError),
    #[error("--kube-api-url {0:?}: {1}; write it as https://HOST:PORT")]
    Url(String, String),
    #[error(
        "we seem to run in no pod: {}; name a file with --kubeconfig-file, or a server with --kube-api-url",
        with_causes(.0)
    )]
    InCluster(kube::config::InClusterError),
    #[error("the kubeconfig asks for the proxy {0}, which weft can't use: remove proxy-url, or run a tunnel")]
    Proxy(String),
    #[error("certificates and credentials for the API server: {0}")]
    Credentials(String),
}

/// An error with what caused it: the outermost alone often says only what was tried.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

impl Access {
    /// A client with credentials as they are now, and the server's address for messages. Tokens in files are read
    /// again by themselves; certificates are not.
    pub(super) async fn client(&self, connect: Duration) -> Result<(Client, String), AccessError> {
        let config = self.config().await?;
        if let Some(proxy) = &config.proxy_url {
            return Err(AccessError::Proxy(proxy.to_string()));
        }
        let url = config.cluster_url.to_string();
        let credentials = |error: kube::Error| AccessError::Credentials(with_causes(&error));
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        tcp.set_connect_timeout(Some(connect));
        let connector = config.rustls_https_connector_with_connector(tcp).map_err(credentials)?;
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        // Not kube's own stack: that logs each refusal as an error, and what is one is decided here.
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(credentials)?)
            .layer(config.extra_headers_layer().map_err(credentials)?)
            .map_err(BoxError::from)
            .service(http);
        Ok((Client::new(service, config.default_namespace), url))
    }

    async fn config(&self) -> Result<Config, AccessError> {
        let parse = |url: &String| {
            let parsed =
                url.parse::<http::Uri>().map_err(|error| AccessError::Url(url.clone(), error.to_string()))?;
            match (parsed.scheme(), parsed.host()) {
                (Some(_), Some(_)) => Ok(parsed),
                _ => Err(AccessError::Url(url.clone(), "a scheme or a host is missing".to_owned())),
            }
        };
        let Some(path) = &self.kubeconfig else {
            return match &self.url {
                Some(url) => Ok(Config::new(parse(url)?)),
                None => Config::incluster().map_err(AccessError::InCluster),
            };
        };
        let wrong = |error| AccessError::Kubeconfig(path.clone(), error);
        let file = Kubeconfig::read_from(path).map_err(wrong)?;
        let mut config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?;
        if let Some(url) = &self.url {
            config.cluster_url = parse(url)?;
        }
        Ok(config)
    }
}
