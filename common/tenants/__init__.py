"""Tenants: who may call, and how much."""
