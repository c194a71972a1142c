"""Configs shipped with the package, one folder a transfer: ``compression/cifar100_crd``."""
