package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/remotecommand"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/exec"
)

const image = "knarr.local/tools:1"

func podOf(command ...string) corev1.PodSpec {
	grace := int64(0)
	return corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{Name: "main", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: command}}}
}

// scaled makes a Deployment small by a client that knows no Deployments.
func scaled(ctx context.Context, t *tour) error {
	one, labels := int32(2), map[string]string{"app": "scaled"}
	deployments := t.client.AppsV1().Deployments(t.namespace)
	made := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "scaled"}, Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podOf("sleep", "100000")}}}
	if _, err := deployments.Create(ctx, made, metav1.CreateOptions{}); err != nil {
		return err
	}
	available := func(wanted int32) error {
		return eventually(ctx, func() error {
			now, err := deployments.Get(ctx, "scaled", metav1.GetOptions{})
			if err != nil {
				return err
			}
			return errors.Join(expect("replicas", now.Status.Replicas, wanted), expect("available", now.Status.AvailableReplicas, wanted), expect("observed", now.Status.ObservedGeneration, now.Generation))
		})
	}
	if err := available(2); err != nil {
		return err
	}
	found, err := discovery.NewDiscoveryClientForConfig(t.config)
	if err != nil {
		return err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(found))
	client, err := scale.NewForConfig(t.config, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(found))
	if err != nil {
		return err
	}
	resource := schema.GroupResource{Group: "apps", Resource: "deployments"}
	now, err := client.Scales(t.namespace).Get(ctx, resource, "scaled", metav1.GetOptions{})
	if err != nil {
		return err
	}
	now.Spec.Replicas = 1
	if _, err := client.Scales(t.namespace).Update(ctx, resource, now, metav1.UpdateOptions{}); err != nil {
		return err
	}
	return available(1)
}

func ready(ctx context.Context, t *tour) error {
	return runs(ctx, t, "tools", podOf("sleep", "100000"))
}

// runs makes a pod and waits for it as client-go's own helpers do, in a watch that outlives its connections.
func runs(ctx context.Context, t *tour, name string, spec corev1.PodSpec) error {
	pods := t.client.CoreV1().Pods(t.namespace)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}, Spec: spec}
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	selector := fields.OneTermEqualSelector("metadata.name", name).String()
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return pods.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return pods.Watch(ctx, o)
		},
	}
	_, err := watchtools.UntilWithSync(ctx, source, &corev1.Pod{}, nil, func(event watch.Event) (bool, error) {
		for _, condition := range event.Object.(*corev1.Pod).Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	return err
}

// commands runs in the pod over WebSockets and over SPDY.
func commands(ctx context.Context, t *tour) error {
	for _, protocol := range []string{"websocket", "spdy"} {
		if err := spoken(ctx, t, protocol); err != nil {
			return fmt.Errorf("%s: %w", protocol, err)
		}
	}
	return nil
}

func executor(t *tour, protocol string, command ...string) (remotecommand.Executor, error) {
	options := &corev1.PodExecOptions{Container: "main", Command: command, Stdin: true, Stdout: true, Stderr: true}
	url := t.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(t.namespace).Name("tools").SubResource("exec").VersionedParams(options, scheme.ParameterCodec).URL()
	if protocol == "spdy" {
		return remotecommand.NewSPDYExecutor(t.config, "POST", url)
	}
	return remotecommand.NewWebSocketExecutor(t.config, "GET", url.String())
}

func spoken(ctx context.Context, t *tour, protocol string) error {
	cat, err := executor(t, protocol, "cat")
	if err != nil {
		return err
	}
	text := strings.Repeat("a line of some length\n", 50_000)
	var out, errs bytes.Buffer
	if err := cat.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(text), Stdout: &out, Stderr: &errs}); err != nil {
		return err
	}
	if out.String() != text || errs.Len() != 0 {
		return fmt.Errorf("%d of %d bytes came back, %q", out.Len(), len(text), errs.String())
	}
	fails, err := executor(t, protocol, "false")
	if err != nil {
		return err
	}
	err = fails.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
	code := exec.CodeExitError{}
	if !errors.As(err, &code) || code.Code != 1 {
		return fmt.Errorf("a command that fails: %v", err)
	}
	return nil
}

// followed reads what a container says, as it says it.
func followed(ctx context.Context, t *tour) error {
	pods := t.client.CoreV1().Pods(t.namespace)
	spec := podOf("cat")
	spec.Containers[0].Stdin = true
	if err := runs(ctx, t, "parrot", spec); err != nil {
		return err
	}
	stream, err := pods.GetLogs("parrot", &corev1.PodLogOptions{Follow: true, Timestamps: true}).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	options := &corev1.PodAttachOptions{Container: "main", Stdin: true}
	url := t.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(t.namespace).Name("parrot").SubResource("attach").VersionedParams(options, scheme.ParameterCodec).URL()
	attach, err := remotecommand.NewWebSocketExecutor(t.config, "GET", url.String())
	if err != nil {
		return err
	}
	read, write := io.Pipe()
	go func() {
		// Nobody reads any more: who writes is told why.
		read.CloseWithError(errors.Join(errors.New("attach has ended"), attach.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: read})))
	}()
	if _, err := io.WriteString(write, "polly\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(stream).ReadString('\n')
	if err != nil {
		return err
	}
	stamp, word, _ := strings.Cut(strings.TrimSpace(line), " ")
	if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil {
		return err
	}
	write.Close()
	return expect("the log", word, "polly")
}

// evicted is refused as long as a budget forbids it.
func evicted(ctx context.Context, t *tour) error {
	budgets := t.client.PolicyV1().PodDisruptionBudgets(t.namespace)
	all := intstr.FromInt32(1)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "tools"}, Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &all, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "tools"}}}}
	if _, err := budgets.Create(ctx, budget, metav1.CreateOptions{}); err != nil {
		return err
	}
	err := eventually(ctx, func() error {
		now, err := budgets.Get(ctx, "tools", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return expect("healthy pods", now.Status.CurrentHealthy, 1)
	})
	if err != nil {
		return err
	}
	pods := t.client.CoreV1().Pods(t.namespace)
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "tools", Namespace: t.namespace}}
	if err := pods.EvictV1(ctx, eviction); !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
		return fmt.Errorf("the budget does not hold: %v", err)
	}
	if err := budgets.Delete(ctx, "tools", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := eventually(ctx, func() error { return pods.EvictV1(ctx, eviction) }); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		if _, err := pods.Get(ctx, "tools", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the pod is still there: %v", err)
		}
		return nil
	})
}

// gone deletes the namespace with all that is left in it.
func gone(ctx context.Context, t *tour) error {
	namespaces := t.client.CoreV1().Namespaces()
	if err := namespaces.Delete(ctx, t.namespace, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		if _, err := namespaces.Get(ctx, t.namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is still there: %v", err)
		}
		return nil
	})
}
