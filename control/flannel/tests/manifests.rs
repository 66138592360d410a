//! The manifests, read as Kubernetes reads them: a field that it does not know is a mistake in them.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use weft_flannel::net_conf::NetConf;

fn objects(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|part| Value::deserialize(part).expect("it is YAML"))
        .collect()
}

/// What the type knows of it.
fn known<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let typed: T = serde_json::from_value(object.clone()).expect("Kubernetes can read it");
    serde_json::to_value(typed).expect("a value")
}

fn all() -> Vec<Value> {
    [
        include_str!("../../../deploy/kubernetes/rbac.yaml"),
        include_str!("../../../deploy/kubernetes/weft.yaml"),
        include_str!("../../../deploy/kubernetes/configmap.yaml"),
    ]
    .into_iter()
    .flat_map(objects)
    .collect()
}

fn named<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    all.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn every_field_is_known() {
    for object in all() {
        let read = match object["kind"].as_str().expect("a kind") {
            "DaemonSet" => known::<DaemonSet>(&object),
            "ConfigMap" => known::<ConfigMap>(&object),
            "Namespace" => known::<Namespace>(&object),
            "ServiceAccount" => known::<ServiceAccount>(&object),
            "ClusterRole" => known::<ClusterRole>(&object),
            "ClusterRoleBinding" => known::<ClusterRoleBinding>(&object),
            other => panic!("{other} is new here"),
        };
        assert_eq!(read, object);
    }
}

#[test]
fn parts_name_each_other_as_they_are_named() {
    let all = all();
    let set = named(&all, "DaemonSet", "kube-flannel-ds");
    let pod = &set["spec"]["template"]["spec"];
    let account = pod["serviceAccountName"].as_str().expect("a name");
    named(&all, "ServiceAccount", account);
    assert_eq!(named(&all, "ClusterRoleBinding", account)["subjects"][0]["name"], account);
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    for (label, value) in set["spec"]["selector"]["matchLabels"].as_object().expect("labels") {
        assert_eq!(&labels[label], value, "{label}");
    }
    let volumes = pod["volumes"].as_array().expect("a list");
    for volume in volumes {
        if let Some(name) = volume["configMap"]["name"].as_str() {
            named(&all, "ConfigMap", name);
        }
    }
    for container in
        pod["containers"].as_array().into_iter().chain(pod["initContainers"].as_array()).flatten()
    {
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
        }
    }
}

#[test]
fn the_network_can_be_read() {
    let all = all();
    let text = named(&all, "ConfigMap", "kube-flannel-cfg")["data"]["net-conf.json"].as_str();
    NetConf::parse(text.expect("a text")).expect("it is flannel's");
}
