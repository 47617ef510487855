"""Selection: what a choice by validation has to choose from, and what it costs."""
