"""MQTT on Trio."""
