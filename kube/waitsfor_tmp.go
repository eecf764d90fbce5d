package kube

func waitsFor(o *Object) bool { _, ok := statuses[o.GroupVersionKind().GroupKind()]; return ok }
