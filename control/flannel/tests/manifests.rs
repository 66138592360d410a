//! The manifests, read as Kubernetes reads them: a field that it does not know is a mistake in them.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
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
        include_str!("../../../deploy/going-back/job.yaml"),
    ]
    .into_iter()
    .flat_map(objects)
    .chain([on_some_nodes()])
    .collect()
}

/// The DaemonSet for some nodes: that for all with the patches of its kustomization, which are to find what they change.
fn on_some_nodes() -> Value {
    let text = include_str!("../../../deploy/some-nodes/kustomization.yaml");
    let kustomization = objects(text).remove(0);
    let all = objects(include_str!("../../../deploy/kubernetes/weft.yaml"));
    let patch = &kustomization["patches"][0];
    let target = &patch["target"];
    let mut set =
        named(&all, target["kind"].as_str().expect("a kind"), target["name"].as_str().expect("a name"))
            .clone();
    let steps = objects(patch["patch"].as_str().expect("a text")).remove(0);
    for step in steps.as_array().expect("a list") {
        let (folder, key) = step["path"].as_str().expect("a path").rsplit_once('/').expect("a whole path");
        let folder = set.pointer_mut(folder).and_then(Value::as_object_mut).expect("it is there");
        let before = folder.insert(key.to_owned(), step["value"].clone());
        assert_eq!(before.is_some(), step["op"] == "replace", "{step}");
    }
    set
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
            "Job" => known::<Job>(&object),
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
    for name in ["kube-flannel-ds", "weft"] {
        let set = named(&all, "DaemonSet", name);
        let account = set["spec"]["template"]["spec"]["serviceAccountName"].as_str().expect("a name");
        named(&all, "ServiceAccount", account);
        assert_eq!(named(&all, "ClusterRoleBinding", account)["subjects"][0]["name"], account);
        let labels = &set["spec"]["template"]["metadata"]["labels"];
        for (label, value) in set["spec"]["selector"]["matchLabels"].as_object().expect("labels") {
            assert_eq!(&labels[label], value, "{label}");
        }
        volumes_are_there(&all, set);
    }
    volumes_are_there(&all, named(&all, "Job", "weft-going-back-NODE"));
}

/// Of a DaemonSet or a Job.
fn volumes_are_there(all: &[Value], object: &Value) {
    let pod = &object["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().expect("a list");
    for volume in volumes {
        if let Some(name) = volume["configMap"]["name"].as_str() {
            named(all, "ConfigMap", name);
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

/// Both would have the tunnel's port and the node's subnet.
#[test]
fn weftd_and_flanneld_are_never_on_one_node() {
    let all = all();
    let (everywhere, some) = (named(&all, "DaemonSet", "kube-flannel-ds"), named(&all, "DaemonSet", "weft"));
    let flannels = json!({ "app": "flannel" });
    for set in [everywhere, some] {
        let pod = &set["spec"]["template"]["spec"];
        let away = &pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(away["labelSelector"]["matchLabels"], flannels);
        assert_eq!(away["topologyKey"], "kubernetes.io/hostname");
        let container = &pod["containers"][0];
        // flannel's manifest has a command, which an apply over it would leave.
        let command = container["command"].as_array().expect("a list");
        assert_eq!(command.last().expect("a word"), "weftd", "the arguments follow");
        // flanneld makes its interface again, as long as it runs.
        for first in pod["initContainers"].as_array().expect("a list") {
            assert!(!first.to_string().contains("ip link delete"), "{first}");
        }
    }
    let labels = &some["spec"]["template"]["metadata"]["labels"];
    assert_ne!(labels["app"], flannels["app"], "flannel's DaemonSet would take the pod for its own");
    assert_eq!(some["spec"]["template"]["spec"]["nodeSelector"], json!({ "weft/switch": "weft" }));
    // What takes back must see what was put there.
    let paths = |object: &Value, container: &str| {
        let mounts = object["spec"]["template"]["spec"][container][0]["volumeMounts"].as_array();
        let paths = mounts.expect("a list").iter().map(|mount| mount["mountPath"].clone());
        paths.collect::<Vec<_>>()
    };
    let job = paths(named(&all, "Job", "weft-going-back-NODE"), "containers");
    for path in paths(some, "initContainers") {
        assert!(job.contains(&path), "{path}");
    }
    for path in ["/run/weft", "/var/lib/weft", "/run/netns", "/run/xtables.lock"] {
        assert!(job.contains(&json!(path)) && paths(some, "containers").contains(&json!(path)), "{path}");
    }
}

#[test]
fn the_network_can_be_read() {
    let all = all();
    let text = named(&all, "ConfigMap", "kube-flannel-cfg")["data"]["net-conf.json"].as_str();
    NetConf::parse(text.expect("a text")).expect("it is flannel's");
}
