"""Preparation of data sets: conversion of label files, checks, class statistics."""
