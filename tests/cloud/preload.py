"""What is imported before workers that use a cloud are forked."""

from __future__ import annotations

import glanceclient.v2.client
import keystoneauth1.adapter
import novaclient.client
import novaclient.v2.client
import openstack.config

import imageflow.compute.nova.driver
import imageflow.stores.glance.driver
import imageflow.tasks.workbench

_ = (glanceclient, keystoneauth1, novaclient, openstack, imageflow)
