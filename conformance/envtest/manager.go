package main

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// managed runs a manager with a reconciler, webhooks and a conversion, and drives it through the API.
func managed(ctx context.Context, cfg *rest.Config, env *envtest.Environment, scheme *runtime.Scheme) error {
	serving := env.WebhookInstallOptions
	manager, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                        scheme,
		LeaderElection:                true,
		LeaderElectionID:              "widgets.example.com",
		LeaderElectionNamespace:       "default",
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       metricsserver.Options{BindAddress: "0"},
		Controller:                    config.Controller{SkipNameValidation: ptr(true)},
		WebhookServer:                 webhook.NewServer(webhook.Options{Host: serving.LocalServingHost, Port: serving.LocalServingPort, CertDir: serving.LocalServingCertDir}),
	})
	if err != nil {
		return err
	}
	reconciler := &reconciler{manager.GetClient()}
	if err := ctrl.NewControllerManagedBy(manager).For(&Widget{}).Owns(&corev1.ConfigMap{}).Complete(reconciler); err != nil {
		return err
	}
	if err := ctrl.NewWebhookManagedBy(manager, &Widget{}).WithDefaulter(&hooks{}).WithValidator(&hooks{}).Complete(); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- manager.Start(running) }()
	if !manager.GetCache().WaitForCacheSync(running) {
		return errors.Join(errors.New("the cache does not sync"), <-ended)
	}
	if err := drive(ctx, manager.GetClient(), manager.GetAPIReader(), func() error { return manager.GetWebhookServer().StartedChecker()(nil) }); err != nil {
		return err
	}
	stop()
	return <-ended
}

func ptr[T any](value T) *T {
	return &value
}

// drive is the test: it sees what the controller and the webhooks do.
func drive(ctx context.Context, c client.Client, live client.Reader, serving func() error) error {
	if err := eventually(ctx, serving); err != nil {
		return fmt.Errorf("webhooks: %w", err)
	}
	w := &Widget{ObjectMeta: metav1.ObjectMeta{Name: "w", Namespace: "default"}, Spec: WidgetSpec{Shape: Shape{Size: 3}}}
	if err := c.Create(ctx, w); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if w.Spec.Color != "blue" {
		return fmt.Errorf("the webhook's default is missing: %q", w.Spec.Color)
	}
	key := client.ObjectKeyFromObject(w)
	ready := func() error {
		if err := c.Get(ctx, key, w); err != nil {
			return err
		}
		if !w.Status.Ready {
			return errors.New("not reconciled")
		}
		return nil
	}
	if err := eventually(ctx, ready); err != nil {
		return err
	}
	if err := refusals(ctx, c); err != nil {
		return err
	}
	if err := converted(ctx, c, live); err != nil {
		return fmt.Errorf("conversion: %w", err)
	}
	return mended(ctx, c, live, key)
}

// refusals come from the schema, and from the webhook.
func refusals(ctx context.Context, c client.Client) error {
	of := func(size int64) error {
		return c.Create(ctx, &Widget{ObjectMeta: metav1.ObjectMeta{Name: "bad", Namespace: "default"}, Spec: WidgetSpec{Shape: Shape{Size: size}}})
	}
	if err := of(0); !apierrors.IsInvalid(err) {
		return fmt.Errorf("against the schema: %v", err)
	}
	if err := of(1000); !apierrors.IsForbidden(err) {
		return fmt.Errorf("against the webhook: %v", err)
	}
	return nil
}

// converted reads in the old version what was written in the new one, and the other way round.
func converted(ctx context.Context, c client.Client, live client.Reader) error {
	old := &WidgetV1{}
	if err := live.Get(ctx, client.ObjectKey{Namespace: "default", Name: "w"}, old); err != nil || old.Spec.Size != 3 {
		return fmt.Errorf("read: size %d, %v", old.Spec.Size, err)
	}
	if err := c.Create(ctx, &WidgetV1{ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: "default"}, Spec: WidgetSpecV1{Size: 7}}); err != nil {
		return err
	}
	list := &WidgetList{}
	if err := live.List(ctx, list, client.InNamespace("default")); err != nil || len(list.Items) != 2 || list.Items[0].Spec.Shape.Size != 7 {
		return fmt.Errorf("list: %v, %v", list.Items, err)
	}
	return nil
}

// mended takes the controller's object away and waits for the next.
func mended(ctx context.Context, c client.Client, live client.Reader, key client.ObjectKey) error {
	made := &corev1.ConfigMap{}
	if err := live.Get(ctx, key, made); err != nil {
		return err
	}
	before := made.UID
	if err := c.Delete(ctx, made); err != nil {
		return err
	}
	again := func() error {
		if err := live.Get(ctx, key, made); err != nil {
			return err
		}
		if made.UID == before || !metav1.IsControlledBy(made, &Widget{ObjectMeta: metav1.ObjectMeta{UID: made.OwnerReferences[0].UID}}) {
			return errors.New("still the old one")
		}
		return nil
	}
	return eventually(ctx, again)
}

// reconciler makes a ConfigMap for each widget and tells so in the status. It reads from the manager's cache.
type reconciler struct{ client.Client }

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	w := &Widget{}
	if err := r.Get(ctx, request.NamespacedName, w); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: w.Name, Namespace: w.Namespace}}
	change := func() error {
		made.Data = map[string]string{"color": w.Spec.Color}
		return controllerutil.SetControllerReference(w, made, r.Scheme())
	}
	if _, err := controllerutil.CreateOrUpdate(ctx, r.Client, made, change); err != nil {
		return ctrl.Result{}, err
	}
	if w.Status.Ready {
		return ctrl.Result{}, nil
	}
	w.Status.Ready = true
	return ctrl.Result{}, r.Status().Update(ctx, w)
}

// hooks give widgets a colour and refuse large ones.
type hooks struct{}

func (*hooks) Default(_ context.Context, w *Widget) error {
	if w.Spec.Color == "" {
		w.Spec.Color = "blue"
	}
	return nil
}

func (*hooks) ValidateCreate(_ context.Context, w *Widget) (admission.Warnings, error) {
	if w.Spec.Shape.Size > 100 {
		return nil, errors.New("too large")
	}
	return nil, nil
}

func (h *hooks) ValidateUpdate(ctx context.Context, _, w *Widget) (admission.Warnings, error) {
	return h.ValidateCreate(ctx, w)
}

func (*hooks) ValidateDelete(context.Context, *Widget) (admission.Warnings, error) {
	return nil, nil
}
