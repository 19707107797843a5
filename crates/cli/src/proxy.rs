//! The proxy between here and the API server: the one through which kubectl would ask.
//!
//! The kubeconfig's `proxy-url` holds whatever else is said. Without it `HTTPS_PROXY` does, in upper case or lower, but not for what
//! `NO_PROXY` names, nor for the own host. What the library makes of these variables is not used: it holds `NO_PROXY` against the proxy
//! and not against the API server.

use std::net::IpAddr;

use http::Uri;
use http::uri::InvalidUri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// What the kubeconfig says of the cluster that is meant.
pub(crate) fn named(kubeconfig: &Kubeconfig, options: &KubeConfigOptions) -> Option<String> {
    let context = options.context.as_ref().or(kubeconfig.current_context.as_ref());
    let context = kubeconfig.contexts.iter().find(|named| Some(&named.name) == context);
    let cluster = context.and_then(|named| named.context.as_ref()).map(|context| &context.cluster);
    let cluster = options.cluster.as_ref().or(cluster)?;
    let named = kubeconfig.clusters.iter().find(|named| named.name == *cluster)?;
    named.cluster.as_ref()?.proxy_url.clone().filter(|url| !url.is_empty())
}

/// The proxy to the API server: as the kubeconfig has it, or else the environment.
pub(crate) fn to_server(
    named: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
    server: &Uri,
) -> Result<Option<Uri>, InvalidUri> {
    let either = |name: &str| {
        let set = |text: &String| !text.is_empty();
        variable(name).filter(set).or_else(|| variable(&name.to_ascii_lowercase()).filter(set))
    };
    let of_environment = || {
        let proxy = either("HTTPS_PROXY").filter(|_| !is_here(server))?;
        let except = either("NO_PROXY").unwrap_or_default();
        let matcher = Matcher::builder().https(proxy.as_str()).no(except).build();
        matcher.intercept(server).map(|_| proxy)
    };
    let proxy = named.map(ToOwned::to_owned).or_else(of_environment);
    let with_scheme = |proxy: String| if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
    proxy.map(|proxy| with_scheme(proxy).parse()).transpose()
}

fn is_here(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const BOTH: [(&str, &str); 2] =
        [("HTTPS_PROXY", "http://p.test:1"), ("NO_PROXY", "near.test,10.0.0.0/8")];

    #[rstest]
    #[case::nothing(None, &[], "https://api.test", None)]
    #[case::of_a_variable(None, &BOTH, "https://api.test:6443", Some("http://p.test:1/"))]
    #[case::in_lower_case(None, &[("https_proxy", "http://p.test:1")], "https://api.test", Some("http://p.test:1/"))]
    #[case::of_the_kubeconfig(Some("http://q.test:1"), &BOTH, "https://api.test", Some("http://q.test:1/"))]
    #[case::whatever_no_proxy_says(Some("socks5://q.test:1"), &BOTH, "https://api.near.test:6443", Some("socks5://q.test:1/"))]
    #[case::without_a_scheme(None, &[("HTTPS_PROXY", "p.test:3128")], "https://api.test", Some("http://p.test:3128/"))]
    #[case::with_a_password(None, &[("HTTPS_PROXY", "http://a:b@p.test:1")], "https://api.test", Some("http://a:b@p.test:1/"))]
    #[case::not_to_what_is_near(None, &BOTH, "https://near.test:6443", None)]
    #[case::not_to_what_is_below_it(None, &BOTH, "https://api.near.test:6443", None)]
    #[case::not_to_a_near_address(None, &BOTH, "https://10.1.2.3:6443", None)]
    #[case::not_to_here(None, &BOTH, "https://127.0.0.1:6443", None)]
    #[case::not_to_here_by_name(None, &BOTH, "https://localhost:6443", None)]
    #[case::not_to_here_by_version_6(None, &BOTH, "https://[::1]:6443", None)]
    #[case::to_there_by_version_6(None, &BOTH, "https://[fd00::1]:6443", Some("http://p.test:1/"))]
    #[case::to_here_as_the_kubeconfig_says(Some("socks5://q.test:1"), &[], "https://127.0.0.1:6443", Some("socks5://q.test:1/"))]
    fn it_is_kubectls(
        #[case] named: Option<&str>,
        #[case] variables: &[(&str, &str)],
        #[case] server: &str,
        #[case] expected: Option<&str>,
    ) {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let proxy = to_server(named, variable, &server.parse().unwrap()).unwrap();
        assert_eq!(proxy.map(|proxy| proxy.to_string()).as_deref(), expected);
    }

    #[test]
    fn the_cluster_that_is_meant_says_it() {
        let kubeconfig = Kubeconfig::from_yaml(
            "current-context: one\n\
             contexts: [{name: one, context: {cluster: plain}}, {name: two, context: {cluster: far}}]\n\
             clusters: [{name: plain, cluster: {proxy-url: ''}}, {name: far, cluster: {proxy-url: 'http://p.test'}}]\n",
        )
        .unwrap();
        let meant = |context: Option<&str>, cluster: Option<&str>| {
            let own = |text: Option<&str>| text.map(ToOwned::to_owned);
            let options = KubeConfigOptions { context: own(context), cluster: own(cluster), user: None };
            named(&kubeconfig, &options)
        };
        assert_eq!(meant(None, None), None);
        assert_eq!(meant(Some("two"), None).as_deref(), Some("http://p.test"));
        assert_eq!(meant(None, Some("far")).as_deref(), Some("http://p.test"));
        assert_eq!(meant(Some("two"), Some("plain")), None);
        assert_eq!(meant(Some("none"), None), None);
    }
}
