// Proves that knarr's binary stands in for the programs that controller-runtime's envtest starts: links named kube-apiserver, etcd
// and kubectl in one folder, no other change. Usage: envtest ASSETS [AT_ONCE]
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

func main() {
	log.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: envtest ASSETS [AT_ONCE]")
		os.Exit(2)
	}
	atOnce := 1
	if len(os.Args) > 2 {
		n, err := strconv.Atoi(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		atOnce = n
	}
	before := leftovers()
	var wg sync.WaitGroup
	errs := make([]error, atOnce)
	for i := range atOnce {
		wg.Go(func() { errs[i] = environment(os.Args[1], i) })
	}
	wg.Wait()
	failed := false
	for i, err := range errs {
		if err != nil {
			failed = true
			fmt.Fprintf(os.Stderr, "environment %d: %v\n", i, err)
		}
	}
	if after := leftovers(); after > before {
		failed = true
		fmt.Fprintf(os.Stderr, "%d folders were left behind\n", after-before)
	}
	if failed {
		os.Exit(1)
	}
	fmt.Printf("%d environments passed\n", atOnce)
}

// leftovers counts the folders that the test framework makes for its programs.
func leftovers() int {
	found, err := filepath.Glob(filepath.Join(os.TempDir(), "k8s_test_framework_*"))
	if err != nil {
		return 0
	}
	return len(found)
}

// environment starts one control plane, does with it what operators' tests do, and stops it.
func environment(assets string, index int) (err error) {
	env := &envtest.Environment{BinaryAssetsDirectory: assets, CRDs: []*apiextensionsv1.CustomResourceDefinition{widgets()}}
	start := time.Now()
	cfg, err := env.Start()
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	fmt.Printf("environment %d: started with a definition in %d ms\n", index, time.Since(start).Milliseconds())
	defer func() {
		if stopErr := env.Stop(); stopErr != nil && err == nil {
			err = fmt.Errorf("stop: %w", stopErr)
		}
	}()
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, step := range []func(context.Context, client.Client) error{deployment, custom} {
		if err := step(ctx, c); err != nil {
			return err
		}
	}
	user, err := env.AddUser(envtest.User{Name: "nobody", Groups: []string{"some"}}, nil)
	if err != nil {
		return fmt.Errorf("add user: %w", err)
	}
	nobody, err := client.New(user.Config(), client.Options{})
	if err != nil {
		return err
	}
	if err := nobody.List(ctx, &corev1.SecretList{}); !apierrors.IsForbidden(err) {
		return fmt.Errorf("a user without rights reads secrets: %v", err)
	}
	kubectl, err := user.Kubectl()
	if err != nil {
		return err
	}
	if _, _, err := kubectl.Run("version"); err != nil {
		return fmt.Errorf("kubectl: %w", err)
	}
	return nil
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

// custom uses the definition that the environment installed.
func custom(ctx context.Context, c client.Client) error {
	w := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": "w", "namespace": "default"}, "spec": map[string]any{"size": int64(3)}}}
	if err := c.Create(ctx, w); err != nil {
		return fmt.Errorf("create a custom resource: %w", err)
	}
	bad := w.DeepCopy()
	bad.SetName("bad")
	bad.SetResourceVersion("")
	bad.Object["spec"] = map[string]any{"size": int64(0)}
	if err := c.Create(ctx, bad); !apierrors.IsInvalid(err) {
		return fmt.Errorf("a custom resource against its schema: %v", err)
	}
	return nil
}

func widgets() *apiextensionsv1.CustomResourceDefinition {
	least := float64(1)
	schema := apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"spec": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"size": {Type: "integer", Minimum: &least}}},
	}}
	return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
		Names:    apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &schema}}},
	}}
}
