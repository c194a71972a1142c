"""Ensembles: many teachers, each with a modality of its own, and one student. Holds the ways in which what the teachers
know is combined.
"""
