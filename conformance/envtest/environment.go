package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// patience is how long anything may take that a test waits for.
const patience = 30 * time.Second

// warmUp starts and stops an environment with nothing in it, and measures both.
func warmUp(assets string) error {
	env := &envtest.Environment{BinaryAssetsDirectory: assets}
	start := time.Now()
	if _, err := env.Start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	started := time.Now()
	if err := env.Stop(); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	fmt.Printf("an empty environment: ready in %d ms, stopped in %d ms\n", started.Sub(start).Milliseconds(), time.Since(started).Milliseconds())
	return nil
}

// environment starts one control plane, does with it what operators' tests do, and stops it. Gives the addresses it listened on.
func environment(assets string, index int) (ports []string, err error) {
	scheme := runtime.NewScheme()
	if err := addToScheme(scheme); err != nil {
		return nil, err
	}
	mutating, validating := webhooks()
	env := &envtest.Environment{
		BinaryAssetsDirectory: assets,
		Scheme:                scheme,
		CRDInstallOptions:     envtest.CRDInstallOptions{CRDs: definitions(), CleanUpAfterUse: true},
		WebhookInstallOptions: envtest.WebhookInstallOptions{MutatingWebhooks: mutating, ValidatingWebhooks: validating},
	}
	start := time.Now()
	config, err := env.Start()
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	fmt.Printf("environment %d: ready with definitions and webhooks in %d ms\n", index, time.Since(start).Milliseconds())
	ports = []string{strings.TrimPrefix(config.Host, "https://"), env.ControlPlane.Etcd.URL.Host,
		net.JoinHostPort(env.WebhookInstallOptions.LocalServingHost, fmt.Sprint(env.WebhookInstallOptions.LocalServingPort))}
	ports[0] = strings.TrimSuffix(ports[0], "/")
	defer func() {
		if stopErr := env.Stop(); stopErr != nil {
			err = errors.Join(err, fmt.Errorf("stop: %w", stopErr))
		}
	}()
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return ports, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	if err := deployment(ctx, c); err != nil {
		return ports, fmt.Errorf("a deployment: %w", err)
	}
	if err := applied(ctx, c); err != nil {
		return ports, fmt.Errorf("server-side apply: %w", err)
	}
	if err := users(ctx, env, c); err != nil {
		return ports, fmt.Errorf("users: %w", err)
	}
	if err := managed(ctx, config, env, scheme); err != nil {
		return ports, fmt.Errorf("a manager: %w", err)
	}
	return ports, nil
}

// deployment goes through create, conflict, status, finalizer and delete.
func deployment(ctx context.Context, c client.Client) error {
	labels := map[string]string{"app": "a"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", Finalizers: []string{"example.com/hold"}}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
	if err := c.Create(ctx, d); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	stale := d.DeepCopy()
	d.Annotations = map[string]string{"a": "b"}
	if err := c.Update(ctx, d); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := c.Update(ctx, stale); !apierrors.IsConflict(err) {
		return fmt.Errorf("a stale update: %v", err)
	}
	d.Status.Replicas = 1
	if err := c.Status().Update(ctx, d); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if err := c.Delete(ctx, d); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	key := client.ObjectKeyFromObject(d)
	if err := c.Get(ctx, key, d); err != nil || d.DeletionTimestamp == nil {
		return fmt.Errorf("a finalizer does not hold: %v", err)
	}
	d.Finalizers = nil
	if err := c.Update(ctx, d); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	if err := c.Get(ctx, key, d); !apierrors.IsNotFound(err) {
		return fmt.Errorf("still there after its finalizer: %v", err)
	}
	return nil
}

// applied has two field managers quarrel over one field.
func applied(ctx context.Context, c client.Client) error {
	config := func(value string) *corev1.ConfigMap {
		return &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "applied", Namespace: "default"}, Data: map[string]string{"k": value}}
	}
	if err := c.Patch(ctx, config("1"), client.Apply, client.FieldOwner("one")); err != nil {
		return err
	}
	if err := c.Patch(ctx, config("2"), client.Apply, client.FieldOwner("two")); !apierrors.IsConflict(err) {
		return fmt.Errorf("no conflict: %v", err)
	}
	return c.Patch(ctx, config("2"), client.Apply, client.FieldOwner("two"), client.ForceOwnership)
}

// users adds one without rights, who gets one, and lets it use kubectl.
func users(ctx context.Context, env *envtest.Environment, admin client.Client) error {
	user, err := env.AddUser(envtest.User{Name: "somebody", Groups: []string{"some"}}, &rest.Config{QPS: 100})
	if err != nil {
		return err
	}
	somebody, err := client.New(user.Config(), client.Options{})
	if err != nil {
		return err
	}
	if err := somebody.List(ctx, &corev1.SecretList{}); !apierrors.IsForbidden(err) {
		return fmt.Errorf("one without rights reads secrets: %v", err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"list"}}}}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "some"}}}
	for _, o := range []client.Object{role, binding} {
		if err := admin.Create(ctx, o); err != nil {
			return err
		}
	}
	if err := eventually(ctx, func() error { return somebody.List(ctx, &corev1.SecretList{}) }); err != nil {
		return fmt.Errorf("one with rights: %w", err)
	}
	kubectl, err := user.Kubectl()
	if err != nil {
		return err
	}
	out, _, err := kubectl.Run("auth", "can-i", "list", "secrets")
	if err != nil {
		return fmt.Errorf("kubectl: %w", err)
	}
	if text, err := io.ReadAll(out); err != nil || string(text) != "yes\n" {
		return fmt.Errorf("kubectl auth can-i: %q %v", text, err)
	}
	return nil
}

// eventually asks again until it gets no error.
func eventually(ctx context.Context, ask func() error) error {
	end := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
